"""Ctrl-C ends a command with code 130 and one line, whatever it interrupts.

Each case is a process of its own: it presses Ctrl-C on itself.
"""

import subprocess
import sys

import pytest

BEGIN = """
import ctypes, signal, sys, threading, time
from fertiray import cli, doctor
from fertiray.errors import InputError
from fertiray.interrupts import Interrupt, uninterrupted

# Also where the suite runs in the background and ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def press():
    signal.raise_signal(signal.SIGINT)

def caught(error):
    try:
        press()
    except KeyboardInterrupt as cause:
        raise error from cause

def command(work):
    doctor.examine = work
    cli.main(["doctor"])
"""
LINE = "fertiray: interrupted; the same command goes on where it stopped\n"
WITHIN = {
    "python": "command(press)",
    # As Polars 2.1 did, interrupted while it turned rows into a table.
    "another error": "command(lambda: caught(TypeError('made of an interruption')))",
    "unusable input": "command(lambda: caught(InputError('x.png: cannot be read')))",
    # What ctypes calls back must not raise, so it drops what does; the work would go on.
    "swallowed": """
def work():
    ctypes.CFUNCTYPE(None)(press)()
    for _ in range(600):
        time.sleep(0.05)

command(work)
""",
}


def ended(code: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", WITHIN)
def test_whatever_an_interruption_comes_out_as(name):
    assert ended(WITHIN[name]) == (130, "", LINE)


def test_an_error_without_ctrl_c_stays_one():
    code, _, said = ended("""
def work():
    raise TypeError("a fault of ours")

command(work)
""")
    assert code == 1
    assert said.endswith("TypeError: a fault of ours\n")


def test_what_must_be_whole_is_and_ctrl_c_comes_after_it():
    assert ended("""
try:
    with uninterrupted():
        print("one")
        press()
        press()
        print("two")
    print("three")
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
""") == (0, "one\ntwo\nTrue\n", "")


def test_whoever_ignores_ctrl_c_goes_on_ignoring_it():
    assert ended("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
interrupt = Interrupt()
with interrupt, uninterrupted():
    press()
print(interrupt.came, signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
""") == (0, "False True\n", "")


def test_a_handler_is_there_as_long_as_it_is_wanted_and_in_the_main_thread_only():
    assert ended("""
def handler():
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler

def within():
    with Interrupt(), uninterrupted():
        print(handler())

within()
print(handler())
thread = threading.Thread(target=within)
thread.start()
thread.join()
""") == (0, "False\nTrue\nTrue\n", "")
