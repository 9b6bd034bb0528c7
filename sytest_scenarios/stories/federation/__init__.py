"""Federation: people of several servers in one room."""
