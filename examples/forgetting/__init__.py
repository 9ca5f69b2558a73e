"""How much of an old text a model keeps while it learns a new one, by lambda."""
