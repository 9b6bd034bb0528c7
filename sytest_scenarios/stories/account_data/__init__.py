"""Account data: what people keep on the server for themselves."""
