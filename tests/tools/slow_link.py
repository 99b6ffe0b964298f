"""A link with latency and loss, for kernels without netem: a process that relays the frames between two interfaces.

    slow_link.py relay INTERFACE INTERFACE SECONDS LOSS SEED
    slow_link.py ping ADDRESS COUNT

`ping` measures such a link: it prints the median round trip in seconds, and the share of echoes that did not come back.
"""

import os
import random
import select
import socket
import statistics
import struct
import sys
import time
from collections import deque
from contextlib import suppress

ALL_FRAMES = 0x0003  # ETH_P_ALL
VNET_HEADER, IGNORE_OUTGOING, RECEIVE_BUFFER = 15, 23, 33  # of Linux's headers; Python has no names for them
PACKET = 263  # SOL_PACKET
ECHO, ECHO_REPLY = 8, 0  # types of ICMP
INTERVAL, PATIENCE = 0.005, 2.0  # seconds between echoes, and after the last one


def relay(first: str, second: str, delay: float, loss: float, seed: int) -> None:
    """Forward each frame to the other interface after `delay` seconds, except for a random share `loss`."""
    ends = [_opened(first), _opened(second)]
    others = dict(zip(ends, reversed(ends), strict=True))
    chance, waiting = random.Random(seed), deque()  # the delay is constant, so the order is that of arrival
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], left)[0]:
            with suppress(OSError):  # the interface is down
                frame = end.recv(2**17)
                if chance.random() >= loss:
                    waiting.append((time.monotonic() + delay, others[end], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, frame = waiting.popleft()
            with suppress(OSError):
                end.send(frame)


def _opened(interface: str) -> socket.socket:
    """Return a socket for the frames that arrive at an interface.

    The kernel leaves checksums to the hardware that these interfaces do not have. So each frame has a header (virtio's) that
    says what is still to be done; without it, the receiver would discard the frame.
    """
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(PACKET, VNET_HEADER, 1)
    end.setsockopt(PACKET, IGNORE_OUTGOING, 1)  # else its own frames would come back
    end.setsockopt(socket.SOL_SOCKET, RECEIVE_BUFFER, 2**24)
    end.bind((interface, ALL_FRAMES))
    return end


def ping(address: str, count: int) -> tuple[float, float]:
    """Send ICMP echoes; return the median round trip in seconds, and the share of echoes that did not come back."""
    sent, trips, own = [], {}, os.getpid() & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as end:
        begun = time.monotonic()
        while (now := time.monotonic()) < begun + count * INTERVAL + PATIENCE:
            if len(sent) < min(count, (now - begun) / INTERVAL):
                total = (ECHO << 8) + own + len(sent)
                checksum = ~(total % 0xFFFF) & 0xFFFF  # the sum in ones' complement
                end.sendto(struct.pack("!BxHHH", ECHO, checksum, own, len(sent)), (address, 0))
                sent.append(now)
            if select.select([end], [], [], INTERVAL / 5)[0]:
                kind, identifier, number = struct.unpack("!BxxxHH", end.recv(2048)[20:28])
                if (kind, identifier) == (ECHO_REPLY, own):
                    trips[number] = time.monotonic() - sent[number]
    return statistics.median(trips.values()), 1 - len(trips) / count


if __name__ == "__main__":
    if sys.argv[1] == "relay":
        relay(*sys.argv[2:4], float(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))
    print(*ping(sys.argv[2], int(sys.argv[3])))
