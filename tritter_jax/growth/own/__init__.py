"""Growing a model of your own: any pytree of parameters, described by rows of axes with roles."""
