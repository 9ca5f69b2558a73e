"""How good the prediction of when to grow is; see README.md."""
