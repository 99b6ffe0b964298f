"""A network as a table, as a picture, and the bytes that training saves for it."""
