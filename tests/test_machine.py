import platform

import pytest

from gracile import machine


@pytest.fixture
def claims(monkeypatch):
    def claim(flags: str, architecture: str = "x86_64") -> None:
        lines = ("model name\t: A processor", f"flags\t\t: {flags}") if flags else ()
        monkeypatch.setattr(machine, "_lines", lambda: lines)
        monkeypatch.setattr(platform, "machine", lambda: architecture)

    return claim


def test_x86_without_vnni_saturates(claims):
    claims("fpu sse avx2")
    assert machine.processor() == "A processor"
    assert machine.integer_instructions() == ()
    assert machine.saturates()


@pytest.mark.parametrize(
    ("flag", "name"), [("avx512_vnni", "AVX512-VNNI"), ("avx_vnni", "AVX-VNNI"), ("amx_int8", "AMX")]
)
def test_x86_with_integer_instructions_does_not(claims, flag, name):
    claims(f"fpu avx2 {flag}")
    assert machine.integer_instructions() == (name,)
    assert not machine.saturates()


def test_nothing_is_claimed_of_what_is_not_known(claims):
    claims("")
    assert machine.processor()
    assert not machine.saturates()
    claims("asimd", "aarch64")
    assert not machine.saturates()
