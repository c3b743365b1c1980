"""Names of languages: what becomes a tag, what is reported, what nobody can tell."""

import csv

import pytest

from mmenc.data.tags import resolve
from mmenc.errors import Refused
from mmenc.recipe import load
from tests.pipeline import REPO, tiny_recipe, write_recipe


@pytest.mark.parametrize(
    ("name", "tag", "how"),
    [
        ("fao_Latn", "fao_Latn", ""),
        ("fo", "fao_Latn", "fo is fao in ISO 639-3; the script of fao is Latn (CLDR, IANA)"),
        ("fao", "fao_Latn", "the script of fao is Latn (CLDR, IANA)"),
        ("FAO_latn", "fao_Latn", "written as fao_Latn"),
        ("sr-Latn", "srp_Latn", "sr is srp in ISO 639-3"),
        ("ara_Arab", "arb_Arab", "ara is a macro-language, whose main language is arb (CLDR)"),
        ("zho_Hant", "cmn_Hant", "zho is a macro-language, whose main language is cmn (CLDR)"),
        ("est_Latn", "ekk_Latn", "est is a macro-language, whose main language is ekk (CLDR)"),
        ("kzj_Latn", "dtp_Latn", "kzj is a retired code of dtp"),
        ("iw", "heb_Hebr", "iw is a retired code of he; the script of heb is Hebr (CLDR, IANA)"),
        (
            "pt_BR",
            "por_Latn",
            "pt is por in ISO 639-3; the script of por is Latn (CLDR for BR); the country BR is no part of a tag",
        ),
        ("fas_Arab", "fas_Arab", ""),  # FineWeb2's labels stay: a macro-language, a split code, a family, unknown, private
        ("eml_Latn", "eml_Latn", ""),
        ("nah_Latn", "nah_Latn", ""),
        ("und_Latn", "und_Latn", ""),
        ("qaa_Latn", "qaa_Latn", ""),
        ("code", "code", ""),
        ("en-fr", "en-fr", ""),
        ("fineweb-2", "fineweb-2", ""),
    ],
)
def test_what_one_table_names_is_resolved_and_says_so(name, tag, how):
    found = resolve(name)
    assert (found.name, found.how) == (tag, how)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no", "no: nor is a macro-language (Norwegian); name the language itself, one of nno, nob"),
        ("nor_Latn", "one of nno, nob, or say which in ingest.aliases"),
        ("sr", "sr: srp is written in Cyrl and Latn; expected srp_Cyrl or srp_Latn, or say which in ingest.aliases"),
        ("zh", "expected cmn_Hans or cmn_Hant"),
        ("hbs_Latn", "one of bos, cnr, hrv, srp"),
        ("sh", "was withdrawn without a successor"),
        ("fxo_Latn", "fxo is no ISO 639-3 code; did you mean fao (Faroese)"),
        ("fao_Latm", "Latm is no ISO 15924 script; did you mean 'Latn'?"),
        ("Faroese", "Faroese is fao_…"),
        ("code_Repos", "neither a language tag such as fao_Latn nor a bucket's name"),
    ],
)
def test_what_no_table_decides_is_refused_with_the_choice(name, sentence):
    with pytest.raises(Refused) as error:
        resolve(name)
    assert sentence in str(error.value)


def test_aliases_of_the_recipe_come_first_and_may_keep_a_name():
    aliases = {"no": "nob_Latn", "ara_Arab": "ara_Arab", "law": "law", "xxz_Latn": "xxz_Latn"}
    assert resolve("no", aliases).name == "nob_Latn"
    assert resolve("no", aliases).how == "ingest.aliases"
    assert (resolve("ara_Arab", aliases).name, resolve("ara_Arab", aliases).how) == ("ara_Arab", "")
    assert resolve("law", aliases).name == "law", "a bucket whose name is a code"
    assert resolve("xxz_Latn", aliases).name == "xxz_Latn"


def test_every_label_of_mmberts_counts_is_taken():
    with (REPO / "recipes" / "mmbert-counts.csv").open() as stream:
        found = {row["language"]: resolve(row["language"]) for row in csv.DictReader(stream)}
    assert len(found) > 1800
    assert {n: r.name for n, r in found.items() if r.how} == {"kzj_Latn": "dtp_Latn", "tpw_Latn": "tpn_Latn"}


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [
        ("fxo_Latn", "params.yaml: languages.high: fxo_Latn: fxo is no ISO 639-3 code; did you mean fao (Faroese)"),
        ("ara_Arab", "params.yaml: languages.high: ara_Arab is called arb_Arab here"),
    ],
)
def test_the_recipes_own_languages_are_checked(tmp_path, tag, sentence):
    recipe = tiny_recipe()
    recipe["languages"]["high"] = [tag]
    write_recipe(tmp_path, recipe)
    with pytest.raises(Refused) as error:
        load(tmp_path / "params.yaml")
    assert sentence in str(error.value)
    recipe["ingest"]["aliases"] = {tag: tag}
    write_recipe(tmp_path, recipe)
    assert load(tmp_path / "params.yaml").ingest.aliases == {tag: tag}
