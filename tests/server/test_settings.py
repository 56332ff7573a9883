from pathlib import Path

import pytest

from server.cli.settings import OPTIONS, parse
from server.settings import Settings, SettingsError, loopback


def settings(environ=None, cwd=Path("/nowhere"), **flags):
    return parse(environ or {}, flags, cwd=cwd)


def test_defaults_need_nothing():
    found = settings({"XDG_DATA_HOME": "/data"})
    assert (found.host, found.port, found.devices, found.models) == ("127.0.0.1", 8000, ("auto",), None)
    assert found.home == Path("/data/aquatint")
    assert found.outputs == Path("/data/aquatint/outputs")


def test_a_flag_wins_over_its_variable():
    environ = {"AQUATINT_PORT": "1", "AQUATINT_QUEUE_LIMIT": "7"}
    found = settings(environ, port="2")
    assert (found.port, found.queue_limit) == (2, 7)


def test_models_yaml_of_the_working_directory_is_taken_if_there(tmp_path):
    assert settings(cwd=tmp_path).models is None
    (tmp_path / "models.yaml").touch()
    assert settings(cwd=tmp_path).models == tmp_path / "models.yaml"
    assert settings({"AQUATINT_MODELS": "/x.yaml"}, cwd=tmp_path).models == Path("/x.yaml")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("AQUATINT_PORT", "eighty"),
        ("AQUATINT_PORT", "65536"),
        ("AQUATINT_DEVICE", "tpu"),
        ("AQUATINT_DEVICE", "auto,cpu"),
        ("AQUATINT_DEVICE", ","),
        ("AQUATINT_QUEUE_LIMIT", "0"),
        ("AQUATINT_MAX_UPLOAD_BYTES", "much"),
        ("AQUATINT_MAX_UPLOAD_BYTES", "0"),
        ("AQUATINT_MAX_UPLOAD_PIXELS", "1e6"),
        ("AQUATINT_DRAIN_SECONDS", "-1"),
        ("AQUATINT_DRAIN_SECONDS", "inf"),
        ("AQUATINT_DRAIN_SECONDS", "nan"),
        ("AQUATINT_PUBLIC_URL", "images.example.com"),
        ("AQUATINT_LOG_FORMAT", "xml"),
        ("AQUATINT_OPEN_ACCESS", "maybe"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(variable, text):
    with pytest.raises(SettingsError, match=f"^{variable}="):
        settings({variable: text})


def test_a_wrong_flag_is_named_as_a_flag():
    with pytest.raises(SettingsError, match=r"^--port='x': must be a whole number"):
        settings({"AQUATINT_PORT": "80"}, port="x")


@pytest.mark.parametrize(
    ("text", "size"), [("50M", 50 << 20), ("4GiB", 4 << 30), ("1.5k", 1536), ("123", 123), ("2 mb", 2 << 20)]
)
def test_sizes(text, size):
    assert settings({"AQUATINT_MAX_UPLOAD_BYTES": text}).max_upload_bytes == size


def test_device_lists():
    assert settings(devices="cuda:0,cuda:1").devices == ("cuda:0", "cuda:1")


def test_keys_come_from_both_variables():
    assert settings({"AQUATINT_API_KEY": "a", "AQUATINT_API_KEYS": "b, c,"}).api_keys == ("b", "c", "a")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "images.internal"])
def test_what_other_machines_reach_is_open_only_if_so_said(host):
    assert not settings(host=host).may_be_open
    assert settings(host=host, open_access="true").may_be_open


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_none(host):
    assert loopback(host)
    assert settings(host=host).may_be_open


def test_every_option_has_a_field_and_keys_have_no_flag():
    assert {option.field for option in OPTIONS} == set(Settings.__struct_fields__)
    assert all(option.flag is None for option in OPTIONS if option.field in {"api_keys", "webhook_secrets", "link_secrets"})


def test_the_settings_show_no_key():
    given = {
        "AQUATINT_API_KEY": "hunter2",
        "AQUATINT_WEBHOOK_SECRETS": "whsec_hunter2" + "A" * 32,
        "AQUATINT_DATABASE_URL": "postgresql://me:hunter2@db/pictures",
        "AQUATINT_LINK_SECRETS": "hunter2" + "A" * 32,
    }
    assert "hunter2" not in repr(settings(given))


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/a/b", "gs://b/p", "az://container/p", "file:///srv/pictures"])
def test_places_of_results(url):
    assert settings({"AQUATINT_STORAGE_URL": url + "/"}).storage_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STORAGE_URL", "s3://"),
        ("STORAGE_URL", "s3://b/p?x=1"),
        ("STORAGE_URL", "file://relative"),
        ("STORAGE_URL", "file:///"),
        ("STORAGE_URL", "ftp://host/x"),
        ("STORAGE_URL", "/srv/pictures"),
        ("STORAGE_ENDPOINT", "localhost:9000"),
        ("CDN_BASE_URL", "cdn.example"),
        ("LINK_HOURS", "169"),
        ("LINK_HOURS", "0"),
        ("LINK_SECRETS", "short"),
        ("LINK_SECRETS", "A" * 32 + ",short"),
        ("FILE_METADATA", "some"),
    ],
)
def test_storage_settings_that_cannot_be(name, value):
    with pytest.raises(SettingsError, match=f"AQUATINT_{name}"):
        settings({f"AQUATINT_{name}": value})
