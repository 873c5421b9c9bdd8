"""What an encoder is measured against: the most frequent label, counting words, TF-IDF with a linear model.

Each is a `System` (systems.py), as a fine-tuned model is: texts in, a probability for each label out. They are saved
as JSON and safetensors, never as a pickle.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix, hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from smsa.data.labels import LABELS
from smsa.errors import UserError

DESCRIPTION, WEIGHTS, VOCABULARY = "baseline.json", "baseline.safetensors", "vocabulary.json"


@dataclass(frozen=True)
class Majority:
    """Gives every text the label that most texts have; the probabilities are the shares of the labels in train."""

    labels: tuple[str, ...]
    shares: tuple[float, ...]
    kind = "majority"

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Majority":
        """Count the labels of the training texts."""
        return cls(labels, tuple((np.bincount(label_ids, minlength=len(labels)) / len(label_ids)).tolist()))

    def predict(self, texts: list[str]) -> np.ndarray:
        return np.tile(self.shares, (len(texts), 1))

    def save(self, folder: Path) -> None:
        _write_json(folder / DESCRIPTION, {"kind": self.kind, "labels": self.labels, "shares": self.shares})

    @classmethod
    def load(cls, folder: Path, description: dict) -> "Majority":
        return cls(tuple(description["labels"]), tuple(description["shares"]))


# Words that carry a judgement by themselves in reviews and on social media, with the spellings people use. A stem also
# stands for its forms with the endings -nya, -lah, -kan, -an and -i.
POSITIVE_WORDS = """
adem ajaib akrab aman amanah andal antusias apik asik asri asyik bagus bahagia baik bangga berhadiah berhasil berkah
berkualitas bermanfaat berprestasi bersahabat bersih bersyukur beruntung betah bijak brilian canggih cantik cepat
cerdas ceria cihui cinta cocok cozy cukup damai dermawan efektif efisien elegan elok empuk enak fantastis favorit
fresh ganteng gembira gemilang gratis gurih handal harmonis harum hebat hemat hore ideal idola ikhlas indah inovatif
inspiratif istimewa jago jelita jempol jitu jos joss juara jujur kagum kangen keren khas komplit kreatif lancar lega
lembut lengkap lezat luas lucu luhur lumayan mahir maju makmur maknyus maksimal manis mantab mantap mantul megah
membaik memenangkan memuaskan menakjubkan menang menarik mendukung mengagumkan menghibur menguntungkan menikmati
menyenangkan merdu meriah modern mujarab mulus murah murni nagih nikmat nyaman ok oke optimal optimis paling-enak
pantas pas peduli pemenang pintar puas pulen rajin ramah rapi recommended rekomen rekomendasi rindang romantis sabar
salut santai sederhana segar sehat sejuk selamat semangat sempurna senang seru setia sigap siip sip sopan
spektakuler strategis suka sukses syahdu syukur taat tampan tangguh tepat terampil terbaik terbantu tercinta
terdepan terenak terhibur terima-kasih terjamin terjangkau terkenal ternyaman terpercaya top trendi tulus unggul
unik untung variatif wangi wow yummy
"""
NEGATIVE_WORDS = """
abal abal-abal acuh alot amburadul amis aneh anjing anjir apek arogan asin bacot bahaya bajingan bangkrut bangsat
basi bau bego bejat belagu benci bengis beracun berantakan berbohong berisik bermasalah bete biadab biang bising
bobrok bodoh bohong bolong bolot boncos boros bosan bosen brengsek bubar buruk busuk cacat cacian capek cela celaka
cemas cemberut cemen cuek curang curi dasar dendam derita dibohongi dipersulit ditipu dongkol durhaka edan egois
emosi eneg enek fitnah gaduh gagal galau ganggu garing gelap geli gembel gerah geram goblok gosong hambar hancur
haram hilang hina hoaks hoax ilegal jahat jancuk jangkrik jelek jengkel jijik jorok judes jutek kacau kampret
kampungan kapok kasar kasihan kebakaran kebohongan kecewa kecil-hati kecoa kecurangan kejam keji kelabakan keluhan
kepanasan keras-kepala kerusuhan kesal kesel ketinggalan khawatir khianat kikir kolot komplain konyol korban korup
korupsi kosong kotor krisis kumuh kurang kurang-ajar kusam kusut lalai lalat lamban lambat lebay lecehkan lelah
lelet lemah lembek lemot lengket letih licik lupa macet mahal makian malang malas maling malu mampus marah masalah
mati melanggar melempem membohongi membosankan memburuk memprihatinkan menangis mencekam mencela mencuri menderita
mengancam mengecewakan mengeluh mengerikan mengesalkan menghina menipu menjengkelkan menjijikkan menolak menyakitkan
menyebalkan menyedihkan menyesal menyesatkan meresahkan merugikan merusak minus miris miskin mogok monoton muak mual
mubazir munafik murahan murka najis nakal ngaco ngantuk ngawur ngeri ngeselin norak nyebelin nyesel nyinyir otoriter
pahit palsu panas parah payah pecundang pedih pelit pembohong penat pencuri pengap penipu penipuan penjahat penyakit
perih pesimis provokasi pusing rakus rasis rawan repot resah ribet ribut rugi rusak rusuh ruwet sadis sakit salah
sampah sarkas sayang-sekali sayangnya sebal sebel sedih sempit sengsara sepi seram sesal sesat setan sia-sia sial
sialan sinis skeptis sombong songong stres sulit sumpek susah takut tamak tegang telat tengik terburuk tercela
terganggu terhina teriak terlambat terlantar terpaksa terpuruk tersinggung tertipu tipu tolol tragis tuduh turun
zalim zonk
"""
NEGATIONS = frozenset("tidak tdk tak ga gak gk nggak ngga enggak engga bukan belum blm tanpa jangan kurang".split())
NEGATION_REACH = 2  # words after a negation whose judgement it turns round: "tidak terlalu enak"
_ENDINGS = ("nya", "lah", "kan", "an", "i")


class Keyword:
    """Counts words of joy and of anger, as the tutorial's first solution does; the label with more of them wins.

    A word within two words after a negation counts for the other side. Equal counts are neutral. The probability of a
    label grows with its lead: a softmax over the counts, in which neutral stands half a word above a tie.
    """

    kind = "keyword"

    def __init__(self, labels: tuple[str, ...] = LABELS):
        if set(labels) != set(LABELS):
            raise UserError(f"the keyword baseline knows the labels {', '.join(LABELS)}, not {', '.join(labels)}.")
        self.labels = tuple(labels)
        self._values = dict.fromkeys(POSITIVE_WORDS.split(), 1) | dict.fromkeys(NEGATIVE_WORDS.split(), -1)

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Keyword":
        """Get the baseline: it learns nothing from texts."""
        return cls(labels)

    def count(self, text: str) -> tuple[int, int]:
        """Get how many words speak for positive and for negative."""
        words = re.findall(r"\w+(?:-\w+)?", text.lower())
        positive = negative = 0
        last_negation = -NEGATION_REACH - 1
        for i, word in enumerate(words):
            pair = f"{words[i - 1]}-{word}" if i else ""
            value = self._values.get(pair) or self._value(word)
            negated = i - last_negation <= NEGATION_REACH and pair not in self._values
            if word in NEGATIONS:
                last_negation = i
                value = 0 if i + 1 < len(words) else value  # "kurang" alone at the end complains by itself
            if value and negated:
                value = -value
            positive, negative = positive + (value > 0), negative + (value < 0)
        return positive, negative

    def _value(self, word: str) -> int:
        if word in self._values:
            return self._values[word]
        for ending in _ENDINGS:
            if word.endswith(ending) and word[: -len(ending)] in self._values:
                return self._values[word[: -len(ending)]]
        return 0

    def predict(self, texts: list[str]) -> np.ndarray:
        counts = np.array([self.count(text) for text in texts], dtype=float).reshape(-1, 2)
        scores = {"positive": counts[:, 0], "negative": counts[:, 1], "neutral": counts.min(-1) + 0.5}
        return softmax(np.stack([scores[label] for label in self.labels], axis=1), axis=-1)

    def save(self, folder: Path) -> None:
        _write_json(folder / DESCRIPTION, {"kind": self.kind, "labels": self.labels})

    @classmethod
    def load(cls, folder: Path, description: dict) -> "Keyword":
        return cls(tuple(description["labels"]))


class Tfidf:
    """Logistic regression over the TF-IDF of words and of pieces of words; seconds to train.

    Words in ones and twos, and runs of 2 to 5 characters within words, which bring in unseen spellings. C and the
    minimal count were chosen on SmSA valid.
    """

    kind = "tfidf"
    C = 30.0

    def __init__(
        self, labels: tuple[str, ...], vectorizers: list[TfidfVectorizer], weights: np.ndarray, bias: np.ndarray
    ):
        self.labels, self._vectorizers, self._weights, self._bias = tuple(labels), vectorizers, weights, bias

    @staticmethod
    def _make_vectorizers(vocabularies: Iterable[dict | None] = (None, None)) -> list[TfidfVectorizer]:
        kinds = ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 5)})
        return [
            TfidfVectorizer(min_df=2, sublinear_tf=True, vocabulary=vocabulary, **kind)
            for kind, vocabulary in zip(kinds, vocabularies, strict=True)
        ]

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Tfidf":
        """Train on texts and their label ids; every label must have a text.

        Raises:
            ValueError: if one has none.
        """
        if len(set(label_ids)) < len(labels):
            raise UserError("the tfidf baseline needs at least one training text of each label.")
        vectorizers = cls._make_vectorizers()
        features = hstack([vectorizer.fit_transform(texts) for vectorizer in vectorizers], format="csr")
        model = LogisticRegression(C=cls.C, class_weight="balanced", max_iter=1000).fit(features, label_ids)
        weights, bias = model.coef_, model.intercept_
        if len(labels) == 2:  # scikit-learn keeps one row for two labels
            weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        # safetensors writes the memory as it lies, whatever the order of the axes
        return cls(labels, vectorizers, np.ascontiguousarray(weights, np.float32), bias.astype(np.float32))

    def features(self, texts: list[str]) -> csr_matrix:
        """Get the TF-IDF values, of shape (n_texts, n_features)."""
        return hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers], format="csr")

    def predict(self, texts: list[str]) -> np.ndarray:
        return softmax(self.features(texts) @ self._weights.T.astype(np.float64) + self._bias, axis=-1)

    def save(self, folder: Path) -> None:
        tensors = {"weights": self._weights, "bias": self._bias}
        vocabularies = []
        for i, vectorizer in enumerate(self._vectorizers):
            tensors[f"idf_{i}"] = vectorizer.idf_
            vocabularies.append(sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.get))
        save_file(tensors, folder / WEIGHTS)
        _write_json(folder / VOCABULARY, vocabularies)
        _write_json(folder / DESCRIPTION, {"kind": self.kind, "labels": self.labels})

    @classmethod
    def load(cls, folder: Path, description: dict) -> "Tfidf":
        tensors = load_file(folder / WEIGHTS)
        terms = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        vectorizers = cls._make_vectorizers([{term: i for i, term in enumerate(listed)} for listed in terms])
        for i, vectorizer in enumerate(vectorizers):
            vectorizer.idf_ = tensors[f"idf_{i}"]
        return cls(tuple(description["labels"]), vectorizers, tensors["weights"], tensors["bias"])


BASELINES = {baseline.kind: baseline for baseline in (Keyword, Tfidf, Majority)}


def load_baseline(folder: str | Path) -> "Keyword | Tfidf | Majority":
    """Load a baseline that `save` has left in a folder.

    Raises:
        ValueError: if its files are not those of one.
    """
    path = Path(folder) / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        baseline = BASELINES[description["kind"]].load(Path(folder), description)
        shape = baseline.predict(["enak"]).shape
    except (ValueError, TypeError, KeyError, IndexError, SafetensorError) as error:
        raise UserError(f"{path.parent} is damaged, or no baseline ({', '.join(BASELINES)}): {error!r}") from error
    if shape != (1, len(baseline.labels)):
        raise UserError(f"{path.parent} is damaged: it has not one probability for each of its labels.")
    return baseline


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
