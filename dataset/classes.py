"""Class names of published data sets, in the order of their numbers: known to training and preparation alike."""

# CREMA-D.
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")

# Kinetics-Sounds, by the list of IBM/AdaMML, issue 3. Kinetics-400 and Kinetics-700 have all 31 under these names. The
# paper of the set (arXiv 1705.08168) has 34, of which three are in no release of Kinetics.
ACTIONS = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "laughing",
    "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet", "playing drums",
    "playing guitar", "playing harmonica", "playing keyboard", "playing organ", "playing piano", "playing saxophone",
    "playing trombone", "playing trumpet", "playing violin", "playing xylophone", "ripping paper", "shoveling snow",
    "shuffling cards", "singing", "stomping grapes", "tap dancing", "tapping guitar", "tapping pen", "tickling",
)  # fmt: skip

# AVE, by the alphabet.
EVENTS = (
    "Accordion", "Acoustic guitar", "Baby cry, infant cry", "Banjo", "Bark", "Bus", "Cat", "Chainsaw", "Church bell",
    "Clock", "Female speech, woman speaking", "Fixed-wing aircraft, airplane", "Flute", "Frying (food)", "Goat",
    "Helicopter", "Horse", "Male speech, man speaking", "Mandolin", "Motorcycle", "Race car, auto racing",
    "Rodents, rats, mice", "Shofar", "Toilet flush", "Train horn", "Truck", "Ukulele", "Violin, fiddle",
)  # fmt: skip

# MUSIC, by the alphabet, as the public list of its videos calls them.
INSTRUMENTS = (
    "accordion", "acoustic_guitar", "cello", "clarinet", "erhu", "flute", "saxophone", "trumpet", "tuba", "violin",
    "xylophone",
)  # fmt: skip

# ModelNet40, by the alphabet.
OBJECTS = (
    "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone", "cup", "curtain",
    "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard", "lamp", "laptop", "mantel", "monitor",
    "night_stand", "person", "piano", "plant", "radio", "range_hood", "sink", "sofa", "stairs", "stool", "table",
    "tent", "toilet", "tv_stand", "vase", "wardrobe", "xbox",
)  # fmt: skip
VIEWS = 12  # pictures of each object

# GRID: position in the sentence -> the words that can stand there.
WORDS = {
    "command": ("bin", "lay", "place", "set"),
    "colour": ("blue", "green", "red", "white"),
    "preposition": ("at", "by", "in", "with"),
    "letter": tuple("abcdefghijklmnopqrstuvxyz"),  # without w, which has three syllables
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "adverb": ("again", "now", "please", "soon"),
}
