"""Layouts of labelled data: published formats written by hand (synthetic lines), and the real files where they are."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mmenc.downstream import classify_suites, glue, token_suites
from mmenc.downstream.classify import Labelled
from mmenc.downstream.conll import read
from mmenc.downstream.course import courses_of, shared
from mmenc.downstream.options import Options
from mmenc.downstream.sources import Data
from mmenc.downstream.task import Missing
from mmenc.errors import Refused
from tests.pipeline import REPO

REAL = REPO.parent / "shared" / "data" / "eval"


def write(root: Path, files: dict[str, str]) -> Data:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text, encoding="utf-8")
    return Data(root)


def test_sib200(tmp_path: Path):
    head = "index_id\tcategory\ttext\n"
    data = write(tmp_path, {
        "sib200/fao_Latn/train.tsv.gz": head + '1\ttravel\tHe said: "go\n2\tpolitics\tVote.\n',
        "sib200/fao_Latn/test.tsv": head + "3\thealth\tRest.\n",
    })  # fmt: skip
    assert classify_suites.sib_languages(data) == ["fao_Latn"]
    parts = classify_suites.sib_read(data, "fao_Latn")
    assert parts["train"] == [Labelled('He said: "go', None, "travel"), Labelled("Vote.", None, "politics")]
    assert (parts["dev"], len(parts["test"])) == ([], 1)
    assert [row["path"] for row in data.inputs()] == ["sib200/fao_Latn/test.tsv", "sib200/fao_Latn/train.tsv.gz"]
    _, skips = courses_of(classify_suites.SIB, data, Options(modes=("language",)))
    assert [s.reason for s in skips] == ["no dev examples"]
    (tmp_path / "sib200/fao_Latn/dev.tsv").write_text(head + "4\ttravel\n")
    with pytest.raises(Refused, match=r"dev\.tsv: line 2 has 2 columns, expected 3"):
        classify_suites.sib_read(data, "fao_Latn")


def test_xnli_in_three_layouts(tmp_path: Path):
    want = Labelled("It rains.", "It is wet.", "entailment")
    xtreme = write(tmp_path / "a", {
        f"xnli/{p}-{c}.tsv": "It rains.\tIt is wet.\tentailment\n" for p in ("train", "dev", "test") for c in ("en", "sw")
    })  # fmt: skip
    assert classify_suites.xnli_languages(xtreme) == ["eng_Latn", "swh_Latn"]
    assert classify_suites.xnli_read(xtreme, "swh_Latn")["test"] == [want]
    line = '{"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}\n'
    lines = write(tmp_path / "b", {f"xnli/en/{p}.jsonl": line for p in ("train", "dev", "test")})
    assert classify_suites.xnli_read(lines, "eng_Latn")["train"] == [want]
    head = "language\tgold_label\tsentence1_binary_parse\tsentence1\tsentence2\n"
    rows = "en\tentailment\t\tIt rains.\tIt is wet.\nen\t-\t\tA\tB\nfr\tneutral\t\tIl pleut.\tNon.\n"
    official = write(tmp_path / "c", {
        "xnli/xnli.dev.tsv": head + rows,
        "xnli/xnli.test.tsv": head + rows,
        "xnli/multinli.train.en.tsv": "premise\thypo\tlabel\nIt rains.\tIt is dry.\tcontradictory\n",
    })  # fmt: skip
    assert len(classify_suites.xnli_languages(official)) == 15
    parts = classify_suites.xnli_read(official, "eng_Latn")
    assert parts["test"] == [want]
    assert parts["train"][0].label == "contradiction"
    assert classify_suites.xnli_read(official, "fra_Latn")["train"] == []


def test_pawsx_in_two_layouts(tmp_path: Path):
    head, row = "id\tsentence1\tsentence2\tlabel\n", "1\tA b .\tB a .\t1\n"
    official = write(tmp_path / "a", {
        "pawsx/x-final/de/translated_train.tsv": head + row,
        "pawsx/x-final/de/dev_2k.tsv": head + row,
        "pawsx/x-final/de/test_2k.tsv": head + row,
    })  # fmt: skip
    want = [Labelled("A b .", "B a .", "1")]
    assert classify_suites.pawsx_languages(official) == ["deu_Latn"]
    assert set(map(repr, classify_suites.pawsx_read(official, "deu_Latn").values())) == {repr(want)}
    xtreme = write(tmp_path / "b", {"pawsx/test-de.tsv": "A b .\tB a .\t1\n"})
    assert classify_suites.pawsx_read(xtreme, "deu_Latn")["test"] == want


GLUE_FILES = {
    "CoLA": ("", "gj04\t1\t\tShe left.\n"),
    "SST-2": ("sentence\tlabel\n", "a good film\t1\n"),
    "MRPC": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n", "1\t7\t8\tA.\tB.\n"),
    "STS-B": ("index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
              "0\tg\tf\t2012\t1\tn\tn\tA.\tB.\t3.800\n"),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n", "1\t2\t3\tWhy?\tHow?\t0\n1\t2\n"),
    "QNLI": ("index\tquestion\tsentence\tlabel\n", "0\tWho?\tHe.\tnot_entailment\n"),
    "RTE": ("index\tsentence1\tsentence2\tlabel\n", "0\tA.\tB.\tentailment\n"),
}  # fmt: skip


def test_glue_as_it_is_distributed(tmp_path: Path):
    files = {f"glue/{t}/{p}.tsv": head + 20 * line for t, (head, line) in GLUE_FILES.items() for p in ("train", "dev")}
    mnli = "index\tsentence1\tsentence2\tlabel1\tgold_label\n" + 20 * "0\tA.\tB.\tneutral\tneutral\n"
    files |= {f"glue/MNLI/{p}.tsv": mnli for p in ("train", "dev_matched", "dev_mismatched")}
    data = write(tmp_path, files)
    want = {
        "cola": ("She left.", None, "1"), "sst2": ("a good film", None, "1"), "mrpc": ("A.", "B.", "1"),
        "stsb": ("A.", "B.", 3.8), "qqp": ("Why?", "How?", "0"), "mnli": ("A.", "B.", "neutral"),
        "mnli-mm": ("A.", "B.", "neutral"), "qnli": ("Who?", "He.", "1"), "rte": ("A.", "B.", "0"),
    }  # fmt: skip
    every = []
    for task in glue.TASKS:
        parts = task.read(data, "eng_Latn")
        assert parts["test"][0] == Labelled(*want[task.name]), task.name
        assert [len(parts[p]) for p in ("train", "dev", "test")] == [18, 2, 20], "dev is held out of train, dev files are test"
        every += courses_of(task, data, Options())[0]
    joined = {c.task.name: [t.task.name for t in c.tests] for c in shared(every)}
    assert joined["mnli"] == ["mnli", "mnli-mm"], "one training, two test sets"
    assert len(glue.COLUMNS) == 8
    assert sorted(t for g in glue.DEFINED for t, _ in g) == ["cola", "mrpc", "mrpc", "qnli", "qqp", "qqp", "rte", "sst2",
                                                           "stsb", "stsb"]  # fmt: skip
    (tmp_path / "glue/CoLA/dev.tsv").unlink()
    with pytest.raises(Missing, match=r"no CoLA/dev\.tsv in the folder glue"):
        glue.COLA.languages(data)


def test_labelled_words_in_every_format(tmp_path: Path):
    conllu = (
        "# text = Im Haus\n1-2\tIm\t_\t_\t_\t_\t_\t_\t_\t_\n1\tIn\t_\tADP\t_\t_\t0\t_\t_\t_\n2\tdem\t_\tDET\t_\t_\t0\t_\t_\t_\n"
    )
    conllu += "2.1\tleer\t_\tVERB\t_\t_\t_\t_\t_\t_\n3\tHaus\t_\tNOUN\t_\t_\t0\t_\t_\t_\n"
    data = write(tmp_path, {
        "udpos/UD_German-GSD/de_gsd-ud-test.conllu.gz": conllu,
        "udpos/fr_gsd/train.txt": "1 000 NUM\nans NOUN\n\nOui INTJ\n",
        "udpos/fr_spoken/train.txt": "Non INTJ\n",
        "udpos/test-sw.tsv": "maji\tNOUN\n",
        "panx/en/train": "en:New\tB-LOC\nen:York\tI-LOC\nen::\tO\n\n",
        "conll/en/test.txt": "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nsays VBZ B-VP O\n",
    })  # fmt: skip
    pos = token_suites.POS
    assert pos.languages(data) == ["deu_Latn", "fra_Latn", "swh_Latn"]
    (german,) = pos.read(data, "deu_Latn")["test"]
    assert (german.words, german.labels) == (("In", "dem", "Haus"), ("ADP", "DET", "NOUN"))
    french = pos.read(data, "fra_Latn")["train"]
    assert [s.words for s in french] == [("1 000", "ans"), ("Oui",), ("Non",)], "two treebanks of one language"
    (new_york,) = token_suites.WIKIANN.read(data, "eng_Latn")["train"]
    assert (new_york.words, new_york.labels) == (("New", "York", ":"), ("B-LOC", "I-LOC", "O"))
    (eu,) = token_suites.CONLL.read(data, "eng_Latn")["test"]
    assert (eu.words, eu.labels) == (("EU", "says"), ("B-ORG", "O"))
    bad = tmp_path / "udpos/bad.txt"
    bad.write_text("word\n")
    with pytest.raises(Refused, match="'word' has one column"):
        read(data, bad)


def test_missing_data_says_what_was_looked_for(tmp_path: Path):
    for task in (classify_suites.SIB, token_suites.NER, glue.COLA):
        courses, (skip, *_) = courses_of(task, Data(tmp_path), Options())
        assert not courses
        assert skip.reason.startswith("no folder "), skip


def test_the_hub_is_refused_with_a_sentence_when_it_cannot_be_reached(tmp_path: Path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def offline(*_args, **_more):
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(Refused, match=r"--hub: the data set facebook/xnli \(en\) cannot be had: Couldn't reach the Hub"):
        classify_suites.xnli_read(Data(tmp_path, hub=True), "eng_Latn")


@pytest.mark.skipif(not REAL.is_dir(), reason="no labelled data beside the repository")
def test_the_real_files_are_read_whole():
    data = Data(REAL)
    assert len(classify_suites.sib_languages(data)) > 90
    sizes = {p: len(e) for p, e in classify_suites.sib_read(data, "fao_Latn" if "fao_Latn" in data.files else "eng_Latn").items()}
    assert sizes == {"train": 701, "dev": 99, "test": 204}
    pos = token_suites.POS
    assert {"eng_Latn", "fin_Latn", "fra_Latn", "mlt_Latn", "wol_Latn"} == set(pos.languages(data))
    known = {label for s in pos.read(data, "mlt_Latn")["test"] for label in s.labels}
    assert known <= set(pos.labels)
    assert token_suites.NER.languages(data) == ["hau_Latn", "swh_Latn", "yor_Latn"]
    ner = token_suites.NER.read(data, "swh_Latn")
    assert (len(ner["train"]), len(ner["dev"]), len(ner["test"])) == (6593, 942, 1883)
    assert {label for s in ner["train"] for label in s.labels} == set(token_suites.NER.labels)
