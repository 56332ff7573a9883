# ruff: noqa: RUF001 - such letters are what it is about
"""Letters that look like Latin ones."""

from collections.abc import Mapping
from types import MappingProxyType

ALIKE: Mapping[str, str] = MappingProxyType(
    {
        **dict(zip("авеёзікмнопрстухѕјԁԛԝһӏьүґ", "abeezikmhonpctyxsjdqwhlbyr", strict=True)),
        **dict(zip("АВЕЁЗІКМНОРСТУХЅЈԀԚԜҺӀЬҮҐ", "abeezikmhopctyxsjdqwhlbyr", strict=True)),
        **dict(zip("αβγεικμνοπρτυχω", "abyeikuvonptuxw", strict=True)),
        **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "abezhikmnoptyx", strict=True)),
        **dict(zip("օոսհյզցԼՏՍ", "onuhjqglsu", strict=True)),
        **dict(zip("ᎪᏴᏟᎠᎬᏀᎻᎥᎫᏦᏞᎷᏢᏚᎢᏙᏔᎩᏃᎡ", "abcdeghijklmpstvwyzr", strict=True)),
        **dict(zip("ıłøđħŧƒɑɡɩɪʟɴʀʏʙɢʜəɛʋǝɹʇʌɐ", "ilodhtfagiilnrybgheevertva", strict=True)),
        **dict(zip("ᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡᴢꜱꜰ", "acdejkmoptuvwzsf", strict=True)),
        "æ": "ae",
        "œ": "oe",
        **{chr(start + index): chr(97 + index) for start in (0x1F150, 0x1F170, 0x1F1E6) for index in range(26)},
    }
)
"""After Unicode's confusables (UTS #39), by hand: those that look like a Latin letter in most typefaces."""
