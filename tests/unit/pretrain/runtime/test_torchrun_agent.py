"""Requests to stop that come at an inconvenient moment."""

import signal
from typing import Any
from unittest import mock

import pytest
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from launch.torchrun import REQUEUE_STATUS
from pretrain.runtime.torchrun_agent import StoppableAgent


def _started(agent: StoppableAgent, during: Any) -> mock.Mock:
    """A rank that the agent starts while something else happens."""
    rank = mock.Mock(**{"poll.return_value": None})
    known: list[mock.Mock] = []

    def start(_agent: LocalElasticAgent, _group: Any) -> dict[int, Any]:
        during()
        known.append(rank)
        return {0: rank}

    with (
        mock.patch.object(LocalElasticAgent, "_start_workers", start),
        mock.patch.object(StoppableAgent, "_processes", return_value=known),
    ):
        agent._start_workers(mock.Mock())
    return rank


@pytest.fixture
def agent() -> StoppableAgent:
    made = StoppableAgent.__new__(StoppableAgent)
    made.stopping, made._starting = None, False
    return made


def test_a_signal_while_ranks_are_started_reaches_them(agent: StoppableAgent) -> None:
    rank = _started(agent, lambda: agent._forward(signal.SIGTERM, None))
    rank.send_signal.assert_called_once_with(signal.SIGTERM)


def test_a_signal_whose_exit_was_ignored_reaches_the_next_ranks(agent: StoppableAgent) -> None:
    agent._pcontext = None
    with pytest.raises(SystemExit, match=str(REQUEUE_STATUS)):
        agent._forward(signal.SIGUSR1, None)
    rank = _started(agent, lambda: None)
    rank.send_signal.assert_called_once_with(signal.SIGUSR1)
