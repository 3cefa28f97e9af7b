"""Flags of XLA: what is unknown is never set, since XLA would end the process."""

from __future__ import annotations

import os

import pytest

from aeoskit_experiments._xla_flags import add_xla_flag

KNOWN = "--xla_force_host_platform_device_count=2"


def test_an_unknown_flag_is_not_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert not add_xla_flag("--xla_flag_of_no_version=true")
    assert add_xla_flag(KNOWN)
    assert os.environ["XLA_FLAGS"] == KNOWN


def test_what_the_user_set_stands(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    assert add_xla_flag(KNOWN)
    assert os.environ["XLA_FLAGS"] == "--xla_force_host_platform_device_count=3"
