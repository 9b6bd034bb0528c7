"""HTTP and TLS themselves: what every client, browser and proxy relies on."""
