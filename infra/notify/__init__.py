"""Messages to whoever is to know of a night that went wrong."""
