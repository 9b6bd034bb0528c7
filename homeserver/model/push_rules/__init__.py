"""Push rules: which events a user is told about, and how (client-server API, "Push Notifications")."""
