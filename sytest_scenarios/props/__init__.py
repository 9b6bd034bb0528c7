"""What stories act with beside people and servers: real keys, played servers and bridges, connections byte by byte."""
