"""The agent process: everything that talks to a network, decides or remembers. Needs the `[server]` extra."""
