"""Prints every event of the stream TOGETHER, each acknowledged once it is handled."""

import asyncio
import os
import signal
import sys

import nats
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

CONSUMER = os.environ.get("CONSUMER", "demo-python")
FILTER = os.environ.get("FILTER", "together.>")


def handle(event, data):
    """Your work goes here. Raise to have the event again later."""
    line = f"{event.get_type()} {event.get_id()} {event.get_subject() or '-'} "
    sys.stdout.buffer.write(line.encode() + data + b"\n")
    sys.stdout.buffer.flush()


async def take(jetstream, stream, stopping):
    """Handles the messages of its consumer on the stream until it is told to stop."""
    try:
        await jetstream.consumer_info(stream, CONSUMER)
    except NotFoundError:
        config = ConsumerConfig(durable_name=CONSUMER, filter_subject=FILTER, ack_policy=AckPolicy.EXPLICIT)
        await jetstream.add_consumer(stream, config)
    subscription = await jetstream.pull_subscribe_bind(CONSUMER, stream)
    while not stopping.is_set():
        try:
            [message] = await subscription.fetch(1, timeout=1)
        except nats.errors.Error:  # nothing new for a second, or no connection
            await asyncio.sleep(0.1)
            continue
        try:  # HTTP and NATS write headers alike: ce-<name>, percent-encoded; the SDK decodes them.
            event = from_binary_event(HTTPMessage(message.headers or {}, message.data))
        except Exception as error:
            print(f"not a CloudEvent: {error}", file=sys.stderr)
            await message.term()  # and never will be
            continue
        try:
            handle(event, message.data)
            await message.ack()
        except Exception as error:
            print(f"handle {event.get_id()}: {error}", file=sys.stderr)
            await message.nak(delay=5)


async def main():
    stopping, connected = asyncio.Event(), asyncio.Event()

    async def trouble(error):  # with the connection, which is tried again
        if "Authorization Violation" in str(error) and not connected.is_set():
            sys.exit(f"{error}; together-relay teams creds NAME --new makes another password")
        print(error, file=sys.stderr)

    url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
    login = {"user": os.environ.get("NATS_USER"), "password": os.environ.get("NATS_PASSWORD")}
    async with await nats.connect(url, **login, error_cb=trouble, max_reconnect_attempts=-1) as connection:
        connected.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await take(connection.jetstream(), "TOGETHER", stopping)


asyncio.run(main())
