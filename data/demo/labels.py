"""What is heard in each file, told from its path.

A table per package: the first pattern that fits the path gives the labels. A label stands under the kind of question
that it answers; a file may have several, a coarse one and a fine one. Files that no pattern fits are left out: a
label that is not certain is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Rule = tuple[str, Mapping[str, str]]

SOURCE = "sound source"
ANIMAL = "animal"
MACHINE = "vehicle or machine"
HUMAN = "human sound"
INSTRUMENT = "instrument"
DRUM = "drum"
FAMILY = "instrument family"
LANGUAGE = "language"
WORD = "spoken word"
COLOUR = "spoken colour"
DIGIT = "spoken digit"


def _animal(name: str) -> Mapping[str, str]:
    return {SOURCE: "animal", ANIMAL: name}


def _vehicle(name: str) -> Mapping[str, str]:
    return {SOURCE: "vehicle", MACHINE: name}


def _machine(name: str) -> Mapping[str, str]:
    return {SOURCE: "machine", MACHINE: name}


def _human(name: str) -> Mapping[str, str]:
    return {SOURCE: "person", HUMAN: name}


def _source(name: str) -> Mapping[str, str]:
    return {SOURCE: name}


def _drum(name: str) -> Mapping[str, str]:
    return {FAMILY: "drums", DRUM: name}


def _instrument(name: str, family: str) -> Mapping[str, str]:
    return {FAMILY: family, INSTRUMENT: name}


GUITAR = _instrument("guitar", "plucked strings")
ELECTRIC_GUITAR = _instrument("electric guitar", "plucked strings")
BASS = _instrument("bass guitar", "plucked strings")
BANJO = _instrument("banjo", "plucked strings")
HARP = _instrument("harp", "plucked strings")
PIANO = _instrument("piano", "keyboard")
ELECTRIC_PIANO = _instrument("electric piano", "keyboard")
HARPSICHORD = _instrument("harpsichord", "keyboard")
ORGAN = _instrument("organ", "keyboard")
ACCORDION = _instrument("accordion", "keyboard")
VIOLIN = _instrument("violin", "bowed strings")
CELLO = _instrument("cello", "bowed strings")
TRUMPET = _instrument("trumpet", "brass")
TROMBONE = _instrument("trombone", "brass")
HORN = _instrument("french horn", "brass")
SAXOPHONE = _instrument("saxophone", "woodwind")
CLARINET = _instrument("clarinet", "woodwind")
FLUTE = _instrument("flute", "woodwind")
ENGLISH_HORN = _instrument("english horn", "woodwind")
OBOE = _instrument("oboe", "woodwind")
BASSOON = _instrument("bassoon", "woodwind")
CHOIR = _instrument("choir", "voices")
XYLOPHONE = _instrument("xylophone", "bars and bells")

SCRATCH: Sequence[Rule] = (
    (r"Animal/Bird", _animal("songbird")),
    (r"Animal/(Cat|Kitten|Meow)", _animal("cat")),
    (r"Animal/Cricket", _animal("insect")),
    (r"Animal/Dog", _animal("dog")),
    (r"Animal/(Duck|Goose)", _animal("duck or goose")),
    (r"Animal/Horse", _animal("horse")),
    (r"Animal/Owl", _animal("owl")),
    (r"Animal/Rooster", _animal("chicken")),
    (r"Animal/SeaLion", _animal("sea animal")),
    (r"Animal/Wolf", _animal("wolf")),
    (r"Effects/BellToll|Percussion/Gong", _source("bell or gong")),
    (r"Effects/(Bubbles|Plunge|Ripples|WaterDrop|WaterRunning)", _source("water")),
    (r"Effects/CarPassing", _vehicle("car")),
    (r"Effects/MotorcyclePassing", _source("vehicle")),
    (r"Effects/Door", _source("door")),
    (r"Effects/SewingMachine", _machine("household machine")),
    (r"Electronic/(Computer|Laser|Space|Spiral|Whoop|Zoop|Alien|Peculiar|DirtyWhir|Screech)", _source("electronics")),
    (r"Human/(Cough|Sneeze)", _human("cough or sneeze")),
    (r"Human/Footsteps", _human("footsteps")),
    (r"Human/Laugh", _human("laugh")),
    (r"Human/(Scream)", _human("cry or scream")),
    (r"Human/(BabyCry|PartyNoise|Slurp)", _source("person")),
    (r"Instruments/(Guitar)", GUITAR),
    (r"Instruments/Trumpet", TRUMPET),
    (r"Percussion/(CymbalCrash|RideCymbal)", _drum("cymbal")),
    (r"Percussion/HandClap", _drum("clap")),
    (r"Percussion/Shaker", _drum("shaker")),
    (r"Music Loops/GuitarChords", GUITAR),
    (r"(?i)Music Loops/Xylo", XYLOPHONE),
    (r"Music Loops/Drum", {FAMILY: "drums"}),
)

TUXPAINT: Sequence[Rule] = (
    (r"household/(vacuum_cleaner|Washing-machine)\.", _machine("household machine")),
    (r"household/tools/saw\.", _machine("saw")),
    (r"household/toilet\.", _source("water")),
    (r"vehicles/emergency/firetruck\.", _vehicle("truck or bus")),
    (r"hobbies/music/string/cello\.", CELLO),
    (r"hobbies/music/string/violin\.", VIOLIN),
    (r"hobbies/music/wind/bassoon\.", BASSOON),
    (r"percussion/cymbal_crash\.", _drum("cymbal")),
    (r"percussion/drum_tomtom_floor\.", _drum("tom")),
    (r"percussion/drumkit\.", {FAMILY: "drums"}),
    (r"animals/insects/", _animal("insect")),
    (r"animals/amphibians/frog", _animal("frog")),
    (r"animals/mammals/aquatic/", _animal("sea animal")),
    (r"animals/mammals/pig", _animal("pig")),
    (r"animals/mammals/equines/horse", _animal("horse")),
    (r"animals/mammals/apes/", _animal("monkey or ape")),
    (r"animals/mammals/(cats/(lion|tiger))", _animal("big cat")),
    (r"halloween/blackcat", _animal("cat")),
    (r"animals/mammals/bovines/(sheep|mountaingoat|ram|goat)", _animal("sheep or goat")),
    (r"animals/mammals/bovines/(cow|bull)", _animal("cow")),
    (r"animals/mammals/dogs/dog", _animal("dog")),
    (r"animals/birds/(rooster|hen)\.", _animal("chicken")),
    (r"animals/birds/(gander|drake|duck)\.", _animal("duck or goose")),
    (r"animals/birds/owl\.", _animal("owl")),
    (r"animals/birds/(blackbird|lark)", _animal("songbird")),
    (r"animals/(mammals|birds|marsupials)/", _source("animal")),
)

GCOMPRIS: Sequence[Rule] = (
    (r"instruments/(tambourine|maracas)\.", _drum("shaker")),
    (r"instruments/snare_drum\.", _drum("snare")),
    (r"instruments/bongo\.", _drum("hand drum")),
    (r"instruments/cymbal\.", _drum("cymbal")),
    (r"instruments/(timpani|drum_kit)\.", {FAMILY: "drums"}),
    (r"instruments/violin\.", VIOLIN),
    (r"instruments/cello\.", CELLO),
    (r"instruments/accordion\.", ACCORDION),
    (r"instruments/electric_guitar\.", ELECTRIC_GUITAR),
    (r"instruments/banjo\.", BANJO),
    (r"instruments/trumpet\.", TRUMPET),
    (r"instruments/horn\.", HORN),
    (r"instruments/piano\.", PIANO),
    (r"instruments/harp\.", HARP),
    (r"instruments/saxophone\.", SAXOPHONE),
    (r"instruments/clarinet\.", CLARINET),
    (r"instruments/guitar\.", GUITAR),
    (r"instruments/trombone\.", TROMBONE),
    (r"instruments/tuba\.", {FAMILY: "brass"}),
    (r"instruments/organ\.", ORGAN),
    (r"instruments/flute", FLUTE),
    (r"memory-sound/guitar", GUITAR),
    (r"melody/xylofon", XYLOPHONE),
    (r"animals/owl\.", _animal("owl")),
    (r"animals/pig\.", _animal("pig")),
    (r"animals/chickens\.", _animal("chicken")),
    (r"animals/cat\.", _animal("cat")),
    (r"animals/horse\.", _animal("horse")),
    (r"animals/cow\.", _animal("cow")),
    (r"animals/dog\.|LRBark", _animal("dog")),
    (r"animals/duck\.", _animal("duck or goose")),
    (r"animals/sheep\.", _animal("sheep or goat")),
    (r"LRFrogs", _animal("frog")),
    (r"traffic/car|LRStartAndStopCar", _vehicle("car")),
    (r"train\.|LRTrain", _vehicle("train")),
    (r"helicopter", _vehicle("helicopter")),
    (r"LRFactory", _machine("factory")),
    (r"LRBuddhist_gong", _source("bell or gong")),
    (r"LRDoor|canal_lock/door", _source("door")),
    (r"LRApplauses", _human("applause")),
    (r"icy_walk", _human("footsteps")),
    (r"LRRain|water|bubble|drip", _source("water")),
    (r"LRWeird", _source("electronics")),
)

OPENSFX: Sequence[Rule] = (
    (r"Factory Whistle|Mining|Toy factory \(3\)", _machine("factory")),
    (r"Jackhammer", _source("machine")),
    (r"Steam (train|engine|\(of)|Diesel|Maglev|Monorail|Level crossing", _vehicle("train")),
    (r"Ship horn|Ferry horn", _vehicle("ship")),
    (r"Propeller|[Jj]et take", _vehicle("plane")),
    (r"Helicopter", _vehicle("helicopter")),
    (r"(Truck|Old bus|Modern bus|Comedy)", _vehicle("truck or bus")),
    (r"car horn", _vehicle("car")),
    (r"Sawmill|Chainsaw", _machine("saw")),
    (r"Sheep", _animal("sheep or goat")),
    (r"Cow", _animal("cow")),
    (r"Horse", _animal("horse")),
    (r"Bird", _animal("songbird")),
    (r"Lion", _animal("big cat")),
    (r"Monkeys", _animal("monkey or ape")),
    (r"Applause", _human("applause")),
    (r"Oooh", _source("person")),
    (r"docks|Bubble", _source("water")),
    (r"Explosion|\d Crash|Big crash", _source("explosion or crash")),
    (r"Morse|Beep|Electric", _source("electronics")),
)

WESNOTH: Sequence[Rule] = (
    (r"/(wolf)-", _animal("wolf")),
    (r"/horse-(hit|die|canter)|horse-elf", _animal("horse")),
    (r"/bat-", _animal("bat")),
    (r"/ambient/birds", _animal("songbird")),
    (r"/(dwarf|witches)-?laugh", _human("laugh")),
    (r"/human-(female-|old-)?(hit|die)", _human("cry or scream")),
    (r"/(goblin|orc|orc-small|troll|ogre|zombie|ghoul|naga|drake|lich|yeti|wose|gryphon|tusker)-", _source("monster")),
    (r"/(groan|wail|ugg|hiss)", _source("monster")),
    (r"/(bow|bow-puny|crossbow|sling|sling-big|axe|sword-1|mace|club|flail|knife|spear|staff)\b", _source("weapon")),
    (r"/(bow|crossbow|axe|hatchet|dagger|throwing-knife|spear|staff|mace|club|flail|sling)[-.]", _source("weapon")),
    (r"/magic", _source("magic spell")),
    (r"/(heal|slowed|petrified)\.", _source("magic spell")),
    (r"/(explosion|rumble|cave-in)", _source("explosion or crash")),
    (r"/(gunshot|thunderstick)", _source("weapon")),
    (r"/water-blast", _source("water")),
    (r"/bell", _source("bell or gong")),
)

SONIC_PI: Sequence[Rule] = (
    (r"/(bd_|drum_heavy_kick|drum_bass_|elec_(hollow|soft)_kick)", _drum("kick")),
    (r"/(sn_|drum_snare|elec_(filt_|hi_|lo_|mid_)?snare)", _drum("snare")),
    (r"/drum_cymbal_(closed|pedal)", _drum("hi-hat")),
    (r"/(drum_cymbal|drum_splash|elec_cymbal)", _drum("cymbal")),
    (r"/(drum_tom|elec_fuzz_tom)", _drum("tom")),
    (r"/(drum|elec)_cowbell", _drum("cowbell")),
    (r"/tabla_", _drum("hand drum")),
    (r"/loop_(amen|breakbeat|perc|tabla|compus|industrial|mehackit|mika)", {FAMILY: "drums"}),
    (r"/guit_", ELECTRIC_GUITAR),
    (r"/(elec_bell|elec_chime|perc_bell)", _source("bell or gong")),
    (r"/ambi_choir", CHOIR),
    (r"/ambi_piano", PIANO),
    (r"/misc_crow", _source("animal")),
    (r"/misc_burp", _source("person")),
    (r"/perc_door", _source("door")),
    (r"/(glitch_robot|mehackit_(phone|robot)|elec_(beep|blip|blup|ping|plip|twip))", _source("electronics")),
)

LMMS: Sequence[Rule] = (
    (r"drums/(kick|bassdrum)", _drum("kick")),
    (r"drums/(snare|nasty_snare)", _drum("snare")),
    (r"drums/hihat", _drum("hi-hat")),
    (r"drums/tom", _drum("tom")),
    (r"drums/(crash|ride)", _drum("cymbal")),
    (r"drums/clap", _drum("clap")),
    (r"drums/shaker", _drum("shaker")),
    (r"beats/", {FAMILY: "drums"}),
    (r"instruments/church_organ|instruments/e_organ", ORGAN),
    (r"instruments/cello", CELLO),
    (r"instruments/bassslap", BASS),
    (r"instruments/steel_guitar.*distorted", ELECTRIC_GUITAR),
    (r"instruments/steel_guitar|latin_guitar", GUITAR),
    (r"instruments/trumpet", TRUMPET),
    (r"instruments/flute", FLUTE),
    (r"instruments/violin_(fingered|double)", VIOLIN),
    (r"instruments/piano", PIANO),
    (r"instruments/e_piano", ELECTRIC_PIANO),
    (r"instruments/harpsichord", HARPSICHORD),
    (r"stringsnpads/.*(choir|chorus)", CHOIR),
    (r"stringsnpads/strings", {FAMILY: "bowed strings"}),
    (r"latin/latin_brass", {FAMILY: "brass"}),
    (r"misc/applause|misc/raving_crowd", _human("applause")),
    (r"effects/explode", _source("explosion or crash")),
    (r"effects/wind_chimes", _source("bell or gong")),
    (r"effects/(warp|filter_sweep)|drums/zap|misc/(electric_ping|buzz)", _source("electronics")),
)

FLUID: Sequence[Rule] = (
    (r"^(P200 Piano|Mellow P200)", PIANO),
    (r"^(Rhodes|EP 2|Electric Piano)", ELECTRIC_PIANO),
    (r"^(Church Organ|Rock Organ|Drawbar|reed organ|B3 )", ORGAN),
    (r"^Accordian", ACCORDION),
    (r"^Harpsichord", HARPSICHORD),
    (r"^(Nylon|Steel [A-G])", GUITAR),
    (r"^(Jazz Guitar|Clean F|Distortion|PalmMute)", ELECTRIC_GUITAR),
    (r"^(Finger Bass|Picked|Pop|Slap Bass|Fretless|SB2|Acoustic Bass)", BASS),
    (r"^Banjo", BANJO),
    (r"^Harp ", HARP),
    (r"^(sitar|Koto|Shamisen)", {FAMILY: "plucked strings"}),
    (r"^Violin", VIOLIN),
    (r"^Cello", CELLO),
    (r"^(Strings|Viola)", {FAMILY: "bowed strings"}),
    (r"^tp_", TRUMPET),
    (r"^trombone", TROMBONE),
    (r"^French Horns", HORN),
    (r"^(Tuba|Brass Section)", {FAMILY: "brass"}),
    (r"^(Tenor|Alto|Soprano|Bariton)", SAXOPHONE),
    (r"^Clarinet", CLARINET),
    (r"^(Flute|Piccolo [A-G]|pan flute|Recorder)", FLUTE),
    (r"^Oboe", OBOE),
    (r"^English Horn", ENGLISH_HORN),
    (r"^E's Bassoon", BASSOON),
    (r"^(Ahh Choir|Ohh Voices)", CHOIR),
    (r"^solo_vox", {FAMILY: "voices"}),
    (r"^Xylophone", XYLOPHONE),
    (r"^Glocken", _instrument("glockenspiel", "bars and bells")),
    (r"^Celesta", _instrument("celesta", "bars and bells")),
    (r"^Music", _instrument("music box", "bars and bells")),
    (r"^(Marimba|Vibraphone|Tubular)", {FAMILY: "bars and bells"}),
    (r"^(Std Kick|Power Kick|Room Kick|Elec Kick|808 Kick|Power Bass Drum)", _drum("kick")),
    (
        r"^(Snr|(Power|808) Snare|(Orch|Brush) Sn|Piccolo 1|56_\d+_SNR_(NORM|BUZZ|RIM))",
        _drum("snare"),
    ),
    (r"^(Hi-Hat|808 (Closed|Open))", _drum("hi-hat")),
    (r"^(Crsh|Ride|BellRide|Splash|China Crash|808 Ride|58_(72|74|77|84|89|91))", _drum("cymbal")),
    (r"^(Tom |808 Tom|.*Studio\(|ElectTom|Electronic Tom)", _drum("tom")),
    (r"^(808 Clap|Clap)", _drum("clap")),
    (r"^(Cow Bell|808 Cowbell|.*Agogo)", _drum("cowbell")),
    (r"^(High Conga|Low Tumba|.*Bongo|.*Conga|808 (High|Mid|Low) Cong)", _drum("hand drum")),
    (r"^(Maracas|Cabasa|Small Shaker|Tambourine)", _drum("shaker")),
    (r"^(High|Low) Woodblock|^Temple", _drum("woodblock")),
    (r"^(Timpani|RmPwr|5[57]_|Taiko|Long Taiko|Short Taiko|.*Timbale)", {FAMILY: "drums"}),
    (r"^Bird$", _animal("songbird")),
    (r"^Applause", _human("applause")),
    (r"^Heli", _vehicle("helicopter")),
    (r"^Sea Shore", _source("water")),
    (r"^Gun", _source("explosion or crash")),
)

LANGUAGES: Mapping[str, str] = {
    "be": "Belarusian",
    "bg": "Bulgarian",
    "ca": "Catalan",
    "da": "Danish",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "lt": "Lithuanian",
    "nl": "Dutch",
    "ro": "Romanian",
    "ru": "Russian",
}
"""Languages that are asked for: those with at least 60 recordings."""

DIGIT_LANGUAGES = frozenset(
    ("be", "bg", "ca", "de", "en", "en_GB", "es", "fr", "it", "lt", "nb", "nl", "nn", "pt", "ro", "ru", "sl", "sv")
)
"""Languages whose digits are asked for: relatives, so that a digit sounds alike in several of them."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "yellow", "blue", "green", "brown", "white", "pink", "black")
WORDS = ("hat", "truck", "flower", "coin", "flag", "apple", "planet", "car", "ball", "balloon", "tree", "guitar", "egg")
"""Things that at least five spoken stamp names contain; the labels are English whatever is spoken."""


def label(rules: Sequence[Rule], path: str) -> Mapping[str, str]:
    """Labels of the first rule that fits `path`; none when the file is not to be used."""
    return next((labels for pattern, labels in rules if re.search(pattern, path)), {})


def named(english: str, among: Sequence[str]) -> str | None:
    """The one word of `among` in an English name; None when there is none or more than one."""
    words = set(re.findall(r"[a-z]+", english.lower()))
    found = [word for word in among if word in words]
    return found[0] if len(found) == 1 else None
