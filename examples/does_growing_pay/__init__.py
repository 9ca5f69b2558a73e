"""Does growing pay? Small-then-grown against large-from-scratch at equal FLOPs; growth strategies side by side."""
