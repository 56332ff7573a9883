"""Where clients may have us connect to."""

import asyncio

import httpcore
import pytest

from server.egress.addresses import Allowed, networks
from server.egress.guarded import Forbidden, GuardedBackend


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_may_be(address):
    assert address in Allowed()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
        "localhost",
        "",
    ],
)
def test_private_ones_may_not(address):
    assert address not in Allowed()


def test_the_operator_may_name_networks():
    allowed = Allowed(networks("127.0.0.1, 10.1.0.0/16,fd00::/8"))
    assert all(address in allowed for address in ("127.0.0.1", "::ffff:127.0.0.1", "10.1.255.1", "fd00::7"))
    assert all(address not in allowed for address in ("127.0.0.2", "10.2.0.1", "::1"))
    with pytest.raises(ValueError, match="nonsense"):
        networks("nonsense")


async def listening():
    heard = []

    async def hear(reader, writer):
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], heard


async def test_a_name_that_leads_inside_is_refused_at_the_moment_of_connecting():
    server, port, heard = await listening()
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])

    async def changing(_host, _port):
        """A name server that says something else the second time."""
        return next(answers)

    assert await changing("", 0) == ["93.184.215.14"]  # what somebody who only looked before would have been told
    async with server, httpcore.AsyncConnectionPool(network_backend=GuardedBackend(Allowed(), changing)) as pool:
        with pytest.raises(Forbidden, match="which is not public"):
            await pool.request("POST", f"http://rebinding.example:{port}/")
    assert heard == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1"])
async def test_every_spelling_of_this_machine_is_refused(host):
    server, port, heard = await listening()
    async with server, httpcore.AsyncConnectionPool(network_backend=GuardedBackend(Allowed())) as pool:
        with pytest.raises((Forbidden, httpcore.ConnectError)):
            await pool.request("GET", f"http://{host}:{port}/")
    assert heard == []


async def test_one_fit_address_among_unfit_ones_is_taken_and_the_host_header_kept():
    server, port, heard = await listening()

    async def several(_host, _port):
        return ["10.9.9.9", "127.0.0.1"]

    fence = GuardedBackend(Allowed(networks("127.0.0.0/8")), several)
    async with server, httpcore.AsyncConnectionPool(network_backend=fence) as pool:
        response = await pool.request("GET", f"http://receiver.example:{port}/hook")
    assert response.status == 200
    assert b"Host: receiver.example" in heard[0]


async def test_local_sockets_are_refused():
    with pytest.raises(Forbidden):
        await GuardedBackend(Allowed()).connect_unix_socket("/run/docker.sock")
