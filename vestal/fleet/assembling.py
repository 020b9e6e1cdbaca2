"""Make the keeper's parts for one server."""

from __future__ import annotations

from vestal.client.tokens import KeyFile, NoToken
from vestal.configuration.ports import Endpoint
from vestal.fleet.fence import Management
from vestal.fleet.fleet import Fleet, Listener, own_client
from vestal.fleet.gatekeeper import Gatekeeper, Surroundings
from vestal.fleet.initial import Initial
from vestal.fleet.judging import TrafficJudge
from vestal.fleet.knowledge import Knowledge
from vestal.fleet.revisions import Revisions
from vestal.fleet.runner import Runner
from vestal.fleet.state import StateStore
from vestal.fleet.worker_counts import WorkerCounts
from vestal.server.launch import LaunchOptions


def make_fleet(
    options: LaunchOptions,
    keeper_endpoint: Endpoint,
    runner: Runner,
    lock: int,
    state: StateStore,
    initial: Initial,
    listener: Listener,
) -> Fleet:
    """Make what the keeper's parts share; nothing is started.

    Args:
        lock: file descriptor of the project's lock, which the gateway's guardian keeps open.
    """
    endpoints, key_file = options.endpoints, options.key_file
    client = own_client(endpoints, key_file)
    tokens = KeyFile(key_file) if key_file else NoToken()
    knowledge = Knowledge(state, stored=initial.stored)
    if initial.source is not None:
        knowledge.forgive()  # the file is applied again
    surroundings = Surroundings(
        torchserve=endpoints[0].numeric,
        keeper=keeper_endpoint.numeric,
        max_body=options.configuration.integer("max_request_size"),
        key_file=key_file,
        logs=options.project.logs,
        lock=lock,
    )
    fleet = Fleet(
        client,
        Management(endpoints[1].url, lambda: tokens.get("management")),
        options.model_store,
        runner,
        knowledge,
        Revisions(state, stored=initial.stored),
        TrafficJudge(client, runner.logs),
        Gatekeeper(surroundings, lambda kind, text: fleet.report(kind, text)),
        WorkerCounts(options.project.worker_counts),
        listener,
        initial.desired,
    )
    return fleet
