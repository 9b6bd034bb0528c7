"""Media: files that are uploaded and downloaded."""
