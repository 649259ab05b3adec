"""Closed classes of English and German words in which neighbours are easily taken for each other. Pure data."""

from __future__ import annotations

from collections.abc import Iterable


def listed(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


def _numbered(*rows: str, start: int = 0) -> dict[str, int]:
    """Words to numbers: each row's words share a number, counting from ``start``."""
    return {word: number for number, row in enumerate(rows, start) for word in row.split()}


def _counted(text: str, *, start: int) -> dict[str, int]:
    """The words of ``text`` to numbers, counting from ``start``."""
    return {word: number for number, word in enumerate(text.split(), start)}


MONTHS = _numbered(
    "january jan januar jänner",
    "february feb februar",
    "march mar märz",
    "april apr",
    "may mai",
    "june jun juni",
    "july jul juli",
    "august aug",
    "september sep sept",
    "october oct oktober okt",
    "november nov",
    "december dec dezember dez",
    start=1,
)
WEEKDAYS = _numbered(
    "monday mondays montag montags montage mon",
    "tuesday tuesdays dienstag dienstags tue tues",
    "wednesday wednesdays mittwoch mittwochs wed",
    "thursday thursdays donnerstag donnerstags thu thur thurs",
    "friday fridays freitag freitags fri",
    "saturday saturdays samstag samstags sonnabend sonnabends sat",
    "sunday sundays sonntag sonntags sun",
)
SHORT_WEEKDAYS = _numbered("mo", "di", "mi", "do", "fr", "sa", "so")
"""German abbreviations that are words themselves: they count inside a range ("Mo–Fr") alone."""

WEEKDAY_SPANS = {
    **dict.fromkeys(
        [
            "weekday",
            "weekdays",
            "workday",
            "workdays",
            "workdays",
            "werktag",
            "werktags",
            "werktage",
            "werktagen",
            "wochentags",
        ],
        (0, 4),
    ),
    **dict.fromkeys(listed("weekend weekends wochenende wochenenden wochenends"), (5, 6)),
    **dict.fromkeys(listed("daily täglich"), (0, 6)),
}
SEASONS = _numbered(
    "spring frühling frühjahr",
    "summer sommer",
    "autumn fall herbst",
    "winter",
)
SEASONS.pop("fall")  # far more often a verb or a noun of its own

_UNITS_DE = _counted("ein zwei drei vier fünf sechs sieben acht neun", start=1)
_TENS_DE = _counted("zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig", start=2)
_UNITS_EN = _counted("one two three four five six seven eight nine", start=1)
_TENS_EN = _counted("twenty thirty forty fifty sixty seventy eighty ninety", start=2)

CARDINALS = {
    **_counted("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen", start=10),
    **_counted("zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn", start=10),
    **{word: number for word, number in (_UNITS_EN | _UNITS_DE).items() if number > 1},
    **{word: 10 * number for word, number in (_TENS_EN | _TENS_DE).items()},
    **{f"{ten}-{unit}": 10 * _TENS_EN[ten] + _UNITS_EN[unit] for ten in _TENS_EN for unit in _UNITS_EN},
    **{f"{unit}und{ten}": 10 * _TENS_DE[ten] + _UNITS_DE[unit] for ten in _TENS_DE for unit in _UNITS_DE},
    "hundred": 100,
    "hundert": 100,
    "thousand": 1000,
    "tausend": 1000,
    "dozen": 12,
    "dutzend": 12,
}
"""Without "one" and "ein", which are mostly pronouns and articles."""

_GERMAN_ORDINALS = _counted("erst zweit dritt viert fünft sechst siebt acht neunt zehnt elft zwölft", start=1)
ORDINALS = {
    **_counted("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth", start=1),
    **{stem + ending: _GERMAN_ORDINALS[stem] for stem in _GERMAN_ORDINALS for ending in ("e", "er", "es", "en", "em")},
}

# (dimension, unit): two units of one dimension are neighbours.
_UNITS = {
    ("length", "km"): "km kilometre kilometres kilometer kilometers kilometern",
    ("length", "mile"): "mile miles mi meile meilen",
    ("length", "m"): "m metre metres meter meters metern",
    ("length", "cm"): "cm centimetre centimetres centimeter centimeters zentimeter zentimetern",
    ("length", "mm"): "mm millimetre millimetres millimeter millimeters millimetern",
    ("length", "foot"): "ft foot feet fuß",
    ("length", "inch"): "inch inches zoll",
    ("mass", "kg"): "kg kilogram kilograms kilogramm kilo kilos",
    ("mass", "g"): "g gram grams gramm",
    ("mass", "t"): "t tonne tonnes ton tons tonnen",
    ("mass", "lb"): "lb lbs",
    ("volume", "l"): "l litre litres liter liters litern",
    ("volume", "ml"): "ml millilitre millilitres milliliter milliliters",
    ("volume", "gallon"): "gallon gallons gallone gallonen",
    ("temperature", "c"): "celsius °c",
    ("temperature", "f"): "fahrenheit °f",
    ("pressure", "bar"): "bar",
    ("pressure", "psi"): "psi",
    ("data", "kb"): "kb kib kilobyte kilobytes",
    ("data", "mb"): "mb mib megabyte megabytes",
    ("data", "gb"): "gb gib gigabyte gigabytes",
    ("data", "tb"): "tb tib terabyte terabytes",
    ("power", "w"): "w watt watts",
    ("power", "kw"): "kw kilowatt kilowatts",
    ("power", "mw"): "mw megawatt megawatts",
    ("currency", "eur"): "€ eur euro euros",
    ("currency", "usd"): "$ usd dollar dollars us-dollar",
    ("currency", "gbp"): "£ gbp pound pounds sterling",
    ("currency", "chf"): "chf franc francs franken",
    ("currency", "jpy"): "¥ jpy yen",
    ("currency", "sek"): "sek krona kronor kronen",
    ("currency", "pln"): "pln zloty złoty",
    ("share", "percent"): "% percent prozent",
    ("time", "second"): "s sec secs second seconds sekunde sekunden",
    ("time", "minute"): "min mins minute minutes minuten",
    ("time", "hour"): "h hr hrs hour hours stunde stunden",
    ("time", "day"): "day days tag tage tagen",
    ("time", "night"): "night nights nacht nächte nächten",
    ("time", "week"): "week weeks woche wochen",
    ("time", "month"): "month months monat monate monaten",
    ("time", "quarter"): "quarters quartale quartalen",
    ("time", "year"): "year years jahr jahre jahren",
}
UNITS = {word: unit for unit, words in _UNITS.items() for word in words.split()}

_RATES = {
    "hour": "hourly stündlich stündliche stündlichen",
    "day": "daily täglich tägliche täglichen tägliches",
    "night": "nightly",
    "week": "weekly wöchentlich wöchentliche wöchentlichen",
    "month": "monthly monatlich monatliche monatlichen monatliches",
    "quarter": "quarterly vierteljährlich quartalsweise",
    "year": "yearly annual annually jährlich jährliche jährlichen annum jährliches",
}
RATES = {word: rate for rate, words in _RATES.items() for word in words.split()}
"""How often; "per month" and "a month" are read by their grammar."""

_OPPOSITES = """
minimum min minimal mindest mindestens least lowest/maximum max maximal höchst höchstens most highest
domestic inland national inländisch/international abroad foreign overseas ausland ausländisch
full-time vollzeit ganztags/part-time teilzeit halbtags
internal intern interne internen interner/external extern externe externen externer
indoor indoors/outdoor outdoors
incoming inbound eingehend eingehende eingehenden/outgoing outbound ausgehend ausgehende ausgehenden
upload uploads hochladen/download downloads herunterladen
import imports einfuhr/export exports ausfuhr
gross brutto/net netto
arrival arrivals arrive ankunft anreise/departure departures depart abfahrt abreise abflug
northern north nord nördlich nördliche nördlichen/southern south süd südlich südliche südlichen/eastern east ost östlich östliche östlichen/western west westlich westliche westlichen
upper obere oberen oberer/lower untere unteren unterer
left linke linken links/right-hand rechte rechten rechts
front vorder vordere vorderen/rear hinter hintere hinteren hintereingang
weekday weekdays werktag werktags werktage werktagen/weekend weekends wochenende wochenenden
morning mornings vormittag vormittags morgens/afternoon afternoons nachmittag nachmittags/evening evenings abend abends
adult adults erwachsene erwachsenen/child children kind kinder kindern
breakfast frühstück/lunch mittagessen/dinner abendessen
employee employees staff mitarbeiter mitarbeitende mitarbeitenden mitarbeitern beschäftigte beschäftigten angestellte angestellten/contractor contractors freelancer freelancers freiberufler auftragnehmer/intern interns trainee trainees praktikant praktikanten praktikantinnen auszubildende auszubildenden/visitor visitors guest guests besucher besuchern gast gäste gästen
production produktion prod/staging/development entwicklung
single einzel einzelzimmer/double doppel doppelzimmer
private privat private privaten/public öffentlich öffentliche öffentlichen
permanent unbefristet unbefristete unbefristeten/temporary befristet befristete befristeten
short-term kurzfristig kurzfristige/long-term langfristig langfristige
primary/secondary
read-only/read-write
diesel/petrol benzin/electric elektrisch elektrische
red rot rote roten roter/green grün grüne grünen grüner/blue blau blaue blauen blauer/yellow gelb gelbe gelben gelber/black schwarz schwarze schwarzen schwarzer/white weiß weiße weißen weißer
train bahn zug/plane flight flug flugzeug/bus
buyer käufer/seller verkäufer
landlord vermieter/tenant mieter
vip/regular
monthly/yearly annual
"""
"""One group a line; "/" parts its classes, which are neighbours of each other."""

OPPOSITES: dict[str, tuple[tuple[int, int], ...]] = {}
"""A word's places: (group, class)."""


def _place(groups: Iterable[str]) -> None:
    for number, group in enumerate(groups):
        for place, words in enumerate(group.split("/")):
            for word in words.split():
                OPPOSITES[word] = (*OPPOSITES.get(word, ()), (number, place))


_place(_OPPOSITES.strip().splitlines())

NEGATIONS = listed("""not no never without none neither nor cannot can't don't doesn't didn't isn't aren't won't mustn't needn't wasn't
    weren't shouldn't nobody nicht kein keine keinen keiner keinem keines ohne nie niemals weder""")
EXCLUSIONS = listed("""except excluded excluding excludes exempt exempted exemption unless prohibited forbidden refused banned only other
    than unpaid uninsured exclusion exclusions ineligible rejected denied ausgenommen ausgeschlossen außer verboten
    untersagt nur unzulässig befreit entfällt""")
"""Words of sentences that answer a negative question without a negation of their own."""

# A word behind which a label stands: "Tier A", "Level 3", "Raum 12".
LABEL_HEADS = listed("""tier level version release zone class category phase stage section article chapter room gate platform line terminal
    building floor group grade port step part type model form appendix annex schedule block hall track lane shift batch
    plan option figure table page clause paragraph number priority severity sev revision edition generation series
    season episode week day amendment rule route bay dock pier unit team sector district ward region area track module
    exercise exhibit item lot band bracket pool bed cell server node rack line-item stufe ebene klasse kategorie abschnitt
    artikel kapitel raum zimmer tor gleis linie gebäude etage stock gruppe tarif schritt teil typ modell formular anhang
    anlage halle schicht abbildung tabelle seite absatz nummer nr priorität woche tag paragraph bereich bezirk spur bahn
    tarifgruppe entgeltgruppe gehaltsgruppe""")
NOT_LABEL_HEADS = listed("""in at on of by to from for with until till since after before about over under above below than is are was were be
    has have had the a an and or per each every all within between around nearly almost approximately exactly least most
    up only im am um ab bis seit von vor nach mit für über unter etwa rund circa ca mindestens höchstens jede jeder alle
    sind ist war waren hat haben und oder pro costs cost takes take gets get kostet beträgt
    costs""")

STOPS = listed("""what which who whom whose when where why how many much long often does do did is are was were be been being can
    could may might must shall should will would has have had the a an and or of in on at to from for with by under over
    into about as it its this that these those there their they them he she we you i my your our his her per if than then
    so not no any some each every all also only according more most less least up out off
    der die das den dem des ein eine einen einem einer eines und oder in im am an auf aus bei beim bis durch für gegen
    mit nach ohne seit um unter von vom vor zu zum zur über ist sind war waren wird werden wurde wurden hat haben hatte
    kann können darf dürfen muss müssen soll sollen was welche welcher welches welchen welchem wer wen wem wann wo wie
    viel viele vielen lange oft warum wozu es er sie wir ihr ihre ihren man sich nicht kein keine auch nur als dass wenn
    gibt laut pro je jeder jede jedes""")
PREPOSITIONS = listed(
    "in at for of from to on with under by near im am an für von vom aus nach bei beim zum zur auf mit laut"
)
GERMAN_MARKS = listed("""der die das den dem des ein eine einen einem einer und oder wie was wer wann wo welche welcher welches welchen viele
    viel ist sind wird werden hat haben kann darf muss nicht kein keine für von im zum zur bei mit nach laut""")

_FORMS = (
    "france french", "spain spanish", "poland polish", "denmark danish", "sweden swedish", "turkey turkish",
    "ireland irish", "scotland scottish scots", "wales welsh", "england english", "britain british uk",
    "netherlands dutch holland", "switzerland swiss", "finland finnish", "greece greek", "iceland icelandic",
    "norway norwegian", "portugal portuguese", "germany german", "austria austrian", "belgium belgian",
    "china chinese", "japan japanese", "europe european", "usa us america american", "eu european",
    "frankreich französisch", "polen polnisch", "schweiz schweizer",
)  # fmt: skip
FORMS = {word: row.split()[0] for row in _FORMS for word in row.split()}
"""Names of which no beginning shows that they belong together, by the first of them."""

FORMS_OF = {row.split()[0]: tuple(row.split()) for row in _FORMS}

AMOUNTS = listed("""one a an no none nothing zero half double twice once both several many few all free unlimited any every single
    hundreds thousands millions dozens pair most each ein eine einen einem einer kein keine keinen nichts null halb halbe
    hälfte doppelt zweimal einmal beide mehrere viele alle kostenlos kostenfrei unbegrenzt jede jeder jedes gratis
    hunderte tausende""") - {"a", "an", "any", "ein", "eine", "einen", "einem", "einer"}
"""Words that say how many or how much without a number."""
