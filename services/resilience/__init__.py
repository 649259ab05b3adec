"""Pure state machines, with thin drivers, that keep the mesh answering while parts of it break."""
