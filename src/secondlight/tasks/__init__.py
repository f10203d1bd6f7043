"""Pipeline tasks: connections, configuration and the order of the steps."""
