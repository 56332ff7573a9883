"""The lists that come with the server: short, English, and of words that mean one thing in a picture.

A star ends a stem. Words of many meanings (birds, places, donkeys) are left out on purpose. Slurs against groups are few: an
operator who needs more has them under ``block``.
"""

from collections.abc import Mapping
from types import MappingProxyType

from server.domain.verdict import Category

TERMS: Mapping[Category, tuple[str, ...]] = MappingProxyType(
    {
        Category.SEXUAL: (
            *("nude", "nudes", "nudity", "nudist*", "naked", "nakedness", "topless", "bottomless", "unclothed"),
            *("nsfw", "porn*", "hentai", "xxx", "rule34", "rule 34", "erotic*", "erotica", "sex", "sexual intercourse"),
            *("sex act", "sex scene", "having sex", "blowjob*", "handjob*", "fellatio", "cunnilingus", "orgasm*", "orgy"),
            *("masturbat*", "ejaculat*", "cumshot*", "creampie*", "gangbang*", "threesome*", "genital*", "penis", "penises"),
            *("vagina*", "vulva*", "clitoris", "labia", "dildo*", "nipple*", "boobs", "bare breasts", "exposed breasts"),
            *("upskirt", "bdsm", "bukkake", "futanari", "ahegao", "deepthroat*", "stripper*", "undressed"),
        ),
        Category.SEXUAL_MINORS: (
            *("child porn*", "childporn", "kiddie porn*", "csam", "lolicon", "shotacon", "toddlercon", "jailbait"),
            *("pedophil*", "paedophil*", "pedo", "sexualized child*", "sexualised child*"),
        ),
        Category.HATE: (
            "white power",
            "white supremac*",
            "sieg heil",
            "heil hitler",
            "master race",
            "faggot*",
            "nigger*",
            "kike*",
        ),
        Category.HATE_THREATENING: ("gas the jews", "kill all jews", "kill all muslims", "kill all blacks", "race war"),
        Category.HARASSMENT: ("revenge porn*", "doxxing", "cyberbullying"),
        Category.HARASSMENT_THREATENING: ("death threat*",),
        Category.SELF_HARM: (
            *("self harm*", "selfharm*", "self mutilat*", "cutting herself", "cutting himself", "cutting themselves"),
            *("slit wrists", "slitting wrists", "slashed wrists", "commit suicide", "committing suicide", "hanging himself"),
            *("hanging herself", "hanging themselves", "suicide by"),
        ),
        Category.SELF_HARM_INTENT: ("want to kill myself", "going to kill myself"),
        Category.SELF_HARM_INSTRUCTIONS: ("how to kill myself", "how to commit suicide", "how to self harm"),
        Category.VIOLENCE: ("massacre", "mass shooting", "school shooting", "stabbed to death", "beaten to death", "lynching*"),
        Category.VIOLENCE_GRAPHIC: (
            *("gore", "gory", "guro", "disembowel*", "eviscerat*", "dismember*", "snuff film", "snuff movie", "mutilated"),
            *("mutilated body", "mutilated bodies", "severed limbs", "exposed intestines", "entrails", "rape", "raped"),
            *("raping", "rapist", "gang rape"),
        ),
        Category.ILLICIT: (
            "counterfeit money",
            "counterfeit banknote*",
            "fake passport*",
            "fake driver's licen*",
            "forged passport*",
        ),
        Category.ILLICIT_VIOLENT: (
            "how to make a bomb",
            "how to build a bomb",
            "pipe bomb instructions",
            "bomb making instructions",
        ),
    }
)

YOUNG: tuple[str, ...] = (
    *("child", "children", "childlike", "kid", "kids", "kiddie", "toddler*", "infant*", "baby", "babies", "newborn*"),
    *("minor", "minors", "underage*", "under age", "preteen*", "pre teen*", "tween", "tweens", "teen", "teens", "teenage*"),
    *("adolescent*", "schoolgirl*", "schoolboy*", "school girl*", "school boy*", "schoolchild*", "little girl*"),
    *("little boy*", "young girl*", "young boy*", "small girl*", "small boy*", "girl child*", "boy child*", "prepubescent*"),
    *("pubescent", "juvenile*", "loli", "lolis", "lolita", "shota", "kindergart*", "preschool*", "elementary school"),
    *("primary school", "middle school", "high school", "high schooler*", "highschool*", "grade schooler*", "youngster*"),
)
"""Somebody who is, or looks, under age. Harmless by itself; together with anything sexual it is always refused."""

SUGGESTIVE: tuple[str, ...] = (
    *("sexy", "sexual*", "sexualized", "sexualised", "seductive*", "sensual*", "lingerie", "provocative pose*", "lewd*"),
    *("horny", "aroused", "fetish*", "kink", "kinky", "undressing", "stripping", "panties", "cleavage", "busty", "slutty"),
    *("breasts", "ass", "buttocks", "pussy", "cock", "dick", "tits", "cum", "milf", "striptease", "pinup"),
)
"""Harmless by itself; together with `YOUNG` it is always refused."""

HARMLESS: tuple[str, ...] = (
    *("nude lipstick*", "nude color*", "nude colour*", "nude tone*", "nude shade*", "nude heels", "nude palette", "nude pumps"),
    *("nude nail*", "nude makeup", "nude make up", "naked mole rat*", "naked eye", "naked cake*"),
    *("sex education", "same sex", "opposite sex", "sex and the city", "sex pistols", "single sex", "the sexes"),
    *("grease nipple*", "nipple cactus", "rape seed", "rape field*", "rape blossom*"),
    *("rape flower*", "oilseed rape", "field of rape", "fields of rape", "rape of the sabine*", "rape of europa"),
    *("rape of proserpina", "rape of the lock", "gore tex", "al gore", "vidal gore", "gore vidal", "wire stripper*"),
    *("paint stripper*", "baby shower", "kid goat*", "teddy bear*", "asia minor", "ursa minor", "minor key", "minor chord"),
    *("a minor", "b minor", "c minor", "d minor", "e minor", "f minor", "g minor", "canis minor", "minor planet*"),
    *("pussy willow*", "pussy cat*", "moby dick", "dick tracy", "dick van dyke", "philip k dick", "cock a doodle doo"),
    *("great tits", "blue tits", "coal tits", "baby blue", "baby's breath", "cum laude", "chicken breasts"),
)
"""Phrases whose words mean something else in them."""
