import asyncio
import contextlib
import re
import sqlite3

from click.testing import CliRunner
from msgspec.structs import asdict
from sqlalchemy import insert

from server.cli import main
from server.db.database import Database, beside
from server.db.migrating import migrate
from server.db.tables import WEBHOOKS
from server.domain.asset import Format
from server.domain.clock import SystemClock
from server.domain.spending import ADDED
from server.domain.stored import New
from server.domain.webhook import Delivery, DeliveryState
from server.storage.assets import path_of
from tests.doubles.stores import stored_in


def test_upgrade_makes_the_tables_once(tmp_path):
    told = [CliRunner().invoke(main, ["db", "upgrade", "--home", str(tmp_path)]) for _ in range(2)]
    assert [result.exit_code for result in told] == [0, 0]
    now = told[1].output.strip()
    assert re.fullmatch(r"database at \d{4}", now)
    assert told[0].output == f"{now}, was empty\n"


def test_a_database_that_is_not_there_is_told():
    result = CliRunner().invoke(main, ["db", "upgrade", "--database-url", "postgresql://nobody@127.0.0.1:1/none"])
    assert result.exit_code == 1
    assert "cannot be used" in result.output


def test_an_address_of_another_kind_is_refused():
    result = CliRunner().invoke(main, ["db", "upgrade", "--database-url", "mysql://h/d"])
    assert "must be postgresql://" in result.output


async def one_message(url):
    database = Database(url)
    await migrate(database)
    message = Delivery("msg_1", "job1", "t", "https://receiver.example/", b"{}", 1.0, 5.0, DeliveryState.FAILED, 10, "500")
    async with database.writing() as connection:
        await connection.execute(insert(WEBHOOKS).values({**asdict(message), "state": "failed"}))
    await database.close()


def test_webhooks_are_listed_and_sent_again(tmp_path):
    asyncio.run(one_message(beside(tmp_path)))

    def run(*arguments):
        return CliRunner().invoke(main, ["webhooks", *arguments, "--home", str(tmp_path)])

    shown = run("list", "--state", "failed").output
    assert shown == "msg_1\tfailed\t10\t-\tjob1\thttps://receiver.example/\t500\n"
    assert run("list", "--job", "other").output == ""
    assert run("resend", "msg_1").exit_code == 0
    assert "msg_1\tpending\t0\t20" in run("list").output
    failed = run("resend", "msg_2")
    assert (failed.exit_code, "no message msg_2" in failed.output) == (1, True)


def keys_command(tmp_path, *arguments):
    return CliRunner().invoke(main, ["keys", *arguments, "--home", str(tmp_path)])


def test_keys_are_made_listed_rotated_and_revoked(tmp_path):
    asked = ("--tenant", "shop", "--name", "web", "--scope", "jobs:read", "--model", "sdxl", "--expires-in", "30d")
    made = keys_command(tmp_path, "create", *asked)
    secret = made.output.strip()
    assert secret.startswith("sk-aquatint-")
    key_id, state, tenant, scopes, models, expires, name = keys_command(tmp_path, "list").output.strip().split("\t")
    assert (state, tenant, scopes, models, name) == ("live", "shop", "jobs:read", "sdxl", "web")
    assert expires.startswith("20")
    assert secret not in keys_command(tmp_path, "list").output
    second = keys_command(tmp_path, "rotate", key_id, "--grace", "1h").output.strip()
    assert second.startswith("sk-aquatint-")
    assert second != secret
    assert [line.split("\t")[1] for line in keys_command(tmp_path, "list").output.splitlines()] == ["live", "live"]
    assert keys_command(tmp_path, "revoke", key_id).exit_code == 0
    assert keys_command(tmp_path, "revoke", key_id).exit_code == 1
    assert keys_command(tmp_path, "rotate", key_id).exit_code == 1
    assert keys_command(tmp_path, "create", "--expires-in", "soon").exit_code == 2


async def one_result(home):
    database = Database(beside(home))
    await migrate(database)
    store = stored_in(home / "outputs", database, SystemClock())
    await store.put(b"four", New(Format.PNG, 1, 1, 1, "shop", "job"))
    await database.close()


def test_storage_is_shown_and_collected(tmp_path):
    asyncio.run(one_result(tmp_path))
    (tmp_path / "models.yaml").write_text(
        "server: {default_model: m}\nmodels: {m: {source: 'fake:', family: fake}}\ntenants: {shop: {storage: {bytes: 3}}}\n"
    )

    def run(*arguments):
        where = ["--home", str(tmp_path), "--models", str(tmp_path / "models.yaml")]
        result = CliRunner().invoke(main, ["storage", *arguments, *where])
        assert result.exit_code == 0, result.output
        return result.output

    assert run("status") == "shop\t1\t4\n"
    assert run("strays") == "0 stray files found, 0 bytes\n"
    assert run("collect") == "1 results and 0 uploads let go, 1 files deleted, 4 bytes\n"
    assert run("status") == ""
    stray = tmp_path / "outputs" / path_of("t", 0.0, "a" * 32, Format.PNG)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"stray")
    assert run("strays", "--delete") == "1 stray files deleted, 5 bytes\n"
    assert not stray.exists()


def test_an_error_of_ours_is_one_line_and_no_traceback(tmp_path):
    run = CliRunner().invoke
    assert run(main, ["db", "upgrade", "--home", str(tmp_path)]).exit_code == 0
    many = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) "
    zeros = ", ".join("0" for _ in ADDED)
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "aquatint.db")) as database, database:
        database.execute(f"{many} INSERT INTO usage SELECT 20500, 't' || i, 'local', 'm', {zeros} FROM n")  # noqa: S608
    found = run(main, ["usage", "--month", "2026-02", "--home", str(tmp_path)])
    assert (found.exit_code, found.stdout) == (1, "")
    assert re.fullmatch(r"Error: There are more than 200000 lines to add up: .*\n", found.stderr)
    one = run(main, ["usage", "--month", "2026-02", "--tenant", "t7", "--home", str(tmp_path)])
    assert (one.exit_code, one.stdout.split("\t")[0]) == (0, "t7")
