"""XMP: the metadata in which a file says that a machine has made it."""

from xml.sax.saxutils import escape

from server.domain.origin import Source

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:dc="http://purl.org/dc/elements/1.1/">
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>{text}
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
_TEXT = '\n<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>'


def packet(source: Source, text: str = "") -> bytes:
    """The XMP packet with IPTC's DigitalSourceType, and ``text`` as the picture's description."""
    said = _TEXT.format(text=escape(text)) if text else ""
    return _PACKET.format(source=source.uri, text=said).encode()
