from click.testing import CliRunner

from server.cli import main


def test_upgrade_makes_the_tables_once(tmp_path):
    told = [CliRunner().invoke(main, ["db", "upgrade", "--home", str(tmp_path)]) for _ in range(2)]
    assert [result.exit_code for result in told] == [0, 0]
    assert told[0].output == "database at 0001, was empty\n"
    assert told[1].output == "database at 0001\n"


def test_a_database_that_is_not_there_is_told():
    result = CliRunner().invoke(main, ["db", "upgrade", "--database-url", "postgresql://nobody@127.0.0.1:1/none"])
    assert result.exit_code == 1
    assert "cannot be used" in result.output


def test_an_address_of_another_kind_is_refused():
    result = CliRunner().invoke(main, ["db", "upgrade", "--database-url", "mysql://h/d"])
    assert "must be postgresql://" in result.output
