"""The stories, a folder for each area; every module in here is loaded, and what is marked with `@story` is told."""
