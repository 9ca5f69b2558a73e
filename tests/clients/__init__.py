"""The programs that users load a `.tprog` with, each in an environment of its own; the model is a grown one."""
