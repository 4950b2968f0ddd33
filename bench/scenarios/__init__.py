"""What is measured, in the order in which docs/benchmarks.md tells it."""
from scenarios.connections import Handshake, Idle, PresenceChurn, Storm
from scenarios.delivery import Channels, Deflate, FanOut
from scenarios.load import Cluster, Latency, Mixed, Saturation, Slow

SCENARIOS = [FanOut(), Channels(), Saturation(), Latency(), Idle(), Handshake(), Storm(), PresenceChurn(), Deflate(), Slow(), Mixed(), Cluster()]
