import datetime as dt
import stat
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from server.storage.provenance.credentials import BadCredentials, anchors, days_left, found, load
from server.storage.provenance.issuing import issue
from server.storage.provenance.signing import Signer

PEM = serialization.Encoding.PEM


def certificate(key, *, begins=-1, ends=30, purpose="1.3.6.1.4.1.62558.2.1"):
    """As somebody else's authority might issue it: claim signing alone, one certificate in the file."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Elsewhere")])
    issuer = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).public_key(key.public_key()).serial_number(7)
    builder = builder.issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An authority")]))
    builder = builder.not_valid_before(now + dt.timedelta(days=begins)).not_valid_after(now + dt.timedelta(days=ends))
    off = dict.fromkeys(("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, **off
    )
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(purpose)]), critical=False)
    return builder.sign(issuer, hashes.SHA256()).public_bytes(PEM)


def private(key, form=serialization.PrivateFormat.PKCS8):
    return key.private_bytes(PEM, form, serialization.NoEncryption())


def written(folder, key, **options):
    (folder / "c.pem").write_bytes(certificate(key, **options))
    (folder / "k.pem").write_bytes(private(key))
    return folder / "c.pem", folder / "k.pem"


def test_what_init_writes_is_closed_to_others(ours):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ours.folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca-key.pem": 0o600, "certificate.pem": 0o644, "key.pem": 0o600}
    assert stat.S_IMODE(ours.folder.stat().st_mode) == 0o700


def test_the_certificate_is_of_the_kind_that_c2pa_asks_for(ours):
    leaf, root = x509.load_pem_x509_certificates((ours.folder / "certificate.pem").read_bytes())
    leaf.verify_directly_issued_by(root)
    purposes = {each.dotted_string for each in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value}
    assert purposes == {"1.3.6.1.5.5.7.3.4", "1.3.6.1.4.1.62558.2.1"}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ours.credentials.algorithm == "es256"
    assert 5 * 365 - 2 <= days_left(ours.credentials, time.time()) <= 5 * 365


def test_a_renewed_certificate_has_the_same_authority(tmp_path):
    issue(tmp_path, "One", 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    issue(tmp_path, "One", 2)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"certificate.pem", "key.pem"}
    assert load(tmp_path / "certificate.pem", tmp_path / "key.pem", time.time()).algorithm == "es256"


def test_no_certificate_outlives_its_authority(tmp_path):
    issue(tmp_path, "One", 20)
    leaf, root = x509.load_pem_x509_certificates((tmp_path / "certificate.pem").read_bytes())
    assert leaf.not_valid_after_utc <= root.not_valid_after_utc


def test_nothing_can_be_renewed_without_the_authoritys_key(tmp_path):
    issue(tmp_path, "One", 1)
    (tmp_path / "ca-key.pem").unlink()
    with pytest.raises(BadCredentials, match=r"cannot be used without ca-key\.pem"):
        issue(tmp_path, "One", 1)


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: ec.generate_private_key(ec.SECP384R1()), "es384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "es512"),
        (lambda: rsa.generate_private_key(65537, 2048), "ps256"),
        (ed25519.Ed25519PrivateKey.generate, "ed25519"),
    ],
)
def test_keys_of_every_kind_that_c2pa_knows(tmp_path, make, algorithm):
    credentials = load(*written(tmp_path, make()), time.time())
    assert credentials.algorithm == algorithm
    Signer(credentials).prove()


def test_a_key_as_openssl_used_to_write_it(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    paths = written(tmp_path, key)
    paths[1].write_bytes(private(key, serialization.PrivateFormat.TraditionalOpenSSL))
    Signer(load(*paths, time.time())).prove()


@pytest.mark.parametrize("purpose", ["1.3.6.1.5.5.7.3.36", "1.3.6.1.5.5.7.3.4"])
def test_certificates_for_documents_and_mail_will_do(tmp_path, purpose):
    Signer(load(*written(tmp_path, ec.generate_private_key(ec.SECP256R1()), purpose=purpose), time.time())).prove()


def test_a_certificate_for_something_else_is_found_out_at_the_start(tmp_path):
    credentials = load(*written(tmp_path, ec.generate_private_key(ec.SECP256R1()), purpose="1.3.6.1.5.5.7.3.2"), time.time())
    with pytest.raises(BadCredentials, match="Nothing can be signed with the certificate of O=Elsewhere"):
        Signer(credentials).prove()


@pytest.mark.parametrize("when", [{"begins": 1}, {"begins": -9, "ends": -1}])
def test_one_whose_time_is_over_or_not_yet_there(tmp_path, when):
    with pytest.raises(BadCredentials, match=r"c\.pem is valid from .* not now"):
        load(*written(tmp_path, ec.generate_private_key(ec.SECP256R1()), **when), time.time())


def test_files_that_do_not_belong_together(tmp_path, ours, theirs):
    with pytest.raises(BadCredentials, match="is not the key of the first certificate"):
        load(ours.folder / "certificate.pem", theirs.folder / "key.pem", time.time())
    with pytest.raises(BadCredentials, match=r"certificate\.pem holds no private key"):
        load(ours.folder / "certificate.pem", ours.folder / "certificate.pem", time.time())
    with pytest.raises(BadCredentials, match=r"key\.pem holds no PEM certificates"):
        load(ours.folder / "key.pem", ours.folder / "key.pem", time.time())
    with pytest.raises(BadCredentials, match="nowhere cannot be read: No such file"):
        load(tmp_path / "nowhere", ours.folder / "key.pem", time.time())
    with pytest.raises(BadCredentials, match="go together"):
        found(ours.folder / "certificate.pem", None, ours.folder, time.time())
    with pytest.raises(BadCredentials, match="holds no PEM certificates"):
        anchors(ours.folder / "key.pem", tmp_path)
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - too short on purpose
    with pytest.raises(BadCredentials, match="RSA of 2048 bits or more"):
        load(*written(tmp_path, key), time.time())


def test_without_any_there_are_none(tmp_path):
    assert found(None, None, tmp_path, time.time()) is None
    assert anchors(None, tmp_path) == b""


def test_a_key_is_never_shown(ours):
    assert "PRIVATE" not in repr(ours.credentials)
