"""What a fault is, which stream it belongs to, and which faults a round is made of."""

FAULTS = {}


def fault(*holds, weight=1.0):
    """A fault's name is the method's; what it holds first says which stream it belongs to."""

    def mark(method):
        FAULTS[method.__name__] = method
        method.holds = holds
        method.weight = weight
        return method

    return mark


STREAMS = {
    "processes": {"server", "relay", "sink", "sessions"},
    "broker": {"broker", "topic"},
    "operators": {"operator", "table", "database"},
}

# What a round is made of. In "kafka" no process of the server dies: relays and sinks live on; in "clean" nothing
# may arrive twice.
PROFILES = {
    "everything": lambda name, stream: True,
    "processes": lambda name, stream: stream == "processes",
    "kafka": lambda name, stream: stream == "broker" or name == "terminate_sessions",
    "operators": lambda name, stream: stream == "operators" or name == "terminate_sessions",
    "clean": lambda name, stream: stream == "operators"
    or name in ("restart_fast", "restart_smart", "terminate_relay", "terminate_launcher", "cancel_workers"),
}


def stream_of(name):
    return next(stream for stream, kinds in STREAMS.items() if FAULTS[name].holds[0] in kinds)
