"""Many servers in one process, on a network that fails, in a time that is made up.

    with World(seed, folder, servers=10, version="12") as world:
        world.play(events=1000)           random events from all servers, partitions, crashes
        world.end()                       the network heals, everybody comes back, everybody is told everything
        world.check()                     all servers have the same

The servers are whole ones, built by `homeserver.parts`: stores on files, lanes, outboxes, keys, the gate, the routes.
Replaced are what they stand on: the reactor, threads and clock (`engine`), and the way of bytes between them
(`network`). Nothing happens at the same time as something else, and whatever could happen next is chosen by one
generator of random numbers: so a seed plays the same again, if `PYTHONHASHSEED` is the same as well.
"""
