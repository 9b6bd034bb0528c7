"""Reading: receipts, unread counts, typing."""
