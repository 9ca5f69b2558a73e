"""The parts of 03_split_mnist.py: digits, the network, Fisher information by row, five tasks in turn, a report."""
