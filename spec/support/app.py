#!/usr/bin/env python3
"""A program for specs of `flux run`. It listens on $PORT once the file $APP_GATE exists (at once without one), prints each
signal that it gets, and at SIGTERM says whether the registry at $APP_REGISTRY still lists it, then exits with $APP_CODE
($APP_STUBBORN: never)."""
import os
import signal
import socket
import sys
import time
from urllib.request import urlopen


def say(*words):
    print("app:", *words, flush=True)


def on_signal(number, _):
    say("signal", signal.Signals(number).name)
    if number not in (signal.SIGTERM, signal.SIGINT):
        return
    if os.environ.get("APP_REGISTRY"):
        listed = urlopen(os.environ["APP_REGISTRY"] + "/api/v1/services").read()
        say("listed" if f":{os.environ['PORT']}".encode() in listed else "not listed")
    if not os.environ.get("APP_STUBBORN"):
        sys.exit(int(os.environ.get("APP_CODE", "0")))


for handled in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(handled, on_signal)
say("pid", os.getpid(), "group", os.getpgid(0), "blocked", len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
say("env", os.environ.get("PORT"), os.environ.get("SERVICE_NAME"), os.environ.get("METRICS_PORT"))
gate = os.environ.get("APP_GATE")
while gate and not os.path.exists(gate):
    time.sleep(0.01)
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
say("listens")
if os.environ.get("APP_EXIT_AFTER"):
    listener.settimeout(float(os.environ["APP_EXIT_AFTER"]))
while True:
    try:
        listener.accept()[0].close()
    except TimeoutError:
        sys.exit(int(os.environ.get("APP_CODE", "0")))
