"""Floor 5: the same federation over a network, with Flower as the engine; alone imports flwr.

`federation` plays the rounds, as in one process: what is here carries jobs to clients and brings
back their answers. Only `client_app`, `server_app`, `link`, `content` and `knock` import flwr; all
else is tested without it.
"""
