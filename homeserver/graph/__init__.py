"""Looking at stored rooms: drawing their graphs, and checking all that is stored of them against the rules."""
