"""A network as a table and as a picture, and the bytes that training saves for the backward pass."""
