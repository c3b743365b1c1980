"""The model card's front matter, through huggingface_hub's own classes, so that what the hub reads is what was meant.

Decisions: languages as ISO 639-1 where there is a code, else ISO 639-3, as the hub lists them; a member of a macrolanguage
(cmn, arb, ekk) has the macrolanguage's two letters, under which people look for it. One EvalResult per tier and metric,
with its interval among the arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mmenc.artifact import Json

_TWO = """
aar:aa abk:ab afr:af aka:ak amh:am ara:ar arg:an asm:as ava:av ave:ae aym:ay aze:az bak:ba bam:bm bel:be ben:bn bis:bi
bod:bo bos:bs bre:br bul:bg cat:ca ces:cs cha:ch che:ce chu:cu chv:cv cor:kw cos:co cre:cr cym:cy dan:da deu:de div:dv
dzo:dz ell:el eng:en epo:eo est:et eus:eu ewe:ee fao:fo fas:fa fij:fj fin:fi fra:fr fry:fy ful:ff gla:gd gle:ga glg:gl
glv:gv grn:gn guj:gu hat:ht hau:ha hbs:sh heb:he her:hz hin:hi hmo:ho hrv:hr hun:hu hye:hy ibo:ig ido:io iii:ii iku:iu
ile:ie ina:ia ind:id ipk:ik isl:is ita:it jav:jv jpn:ja kal:kl kan:kn kas:ks kat:ka kau:kr kaz:kk khm:km kik:ki kin:rw
kir:ky kom:kv kon:kg kor:ko kua:kj kur:ku lao:lo lat:la lav:lv lim:li lin:ln lit:lt ltz:lb lub:lu lug:lg mah:mh mal:ml
mar:mr mkd:mk mlg:mg mlt:mt mon:mn mri:mi msa:ms mya:my nau:na nav:nv nbl:nr nde:nd ndo:ng nep:ne nld:nl nno:nn nob:nb
nor:no nya:ny oci:oc oji:oj ori:or orm:om oss:os pan:pa pli:pi pol:pl por:pt pus:ps que:qu roh:rm ron:ro run:rn rus:ru
sag:sg san:sa sin:si slk:sk slv:sl sme:se smo:sm sna:sn snd:sd som:so sot:st spa:es sqi:sq srd:sc srp:sr ssw:ss sun:su
swa:sw swe:sv tah:ty tam:ta tat:tt tel:te tgk:tg tgl:tl tha:th tir:ti ton:to tsn:tn tso:ts tuk:tk tur:tr twi:tw uig:ug
ukr:uk urd:ur uzb:uz ven:ve vie:vi vol:vo wln:wa wol:wo xho:xh yid:yi yor:yo zha:za zho:zh zul:zu
"""
"""ISO 639-3 to ISO 639-1, the whole of it."""
_MEMBERS = """
cmn:zh arb:ar ekk:et lvs:lv pes:fa prs:fa swh:sw zsm:ms azj:az uzn:uz khk:mn als:sq npi:ne ory:or plt:mg pbu:ps pbt:ps ydd:yi
gaz:om quz:qu quy:qu kmr:ku fuf:ff ayr:ay knc:kr gug:gn
"""
"""Members of macrolanguages that are commonly meant by the macrolanguage's code."""
TWO, MEMBERS = (dict(pair.split(":") for pair in text.split()) for text in (_TWO, _MEMBERS))
METRICS = {
    "mlm.bits_per_byte": "bits per byte of masked tokens",
    "mlm.loss": "loss (nats per masked token)",
    "mlm.accuracy": "accuracy of masked tokens",
    "retrieval.accuracy": "retrieval of the translation",
}
"""What the card shows of scores.json, by `task.metric`."""


def hub_languages(tags: Iterable[str]) -> list[str]:
    """Language codes as the hub lists them, sorted."""
    codes = {tag.split("_")[0] for tag in tags}
    return sorted({TWO.get(c) or MEMBERS.get(c) or c for c in codes})


def eval_results(rows: Sequence[Json]) -> list[Any]:
    """EvalResults of the released model, one per tier and metric."""
    from huggingface_hub import EvalResult

    found = []
    for r in rows:
        metric = f"{r['task']}.{r['metric']}"
        if r["language"] or not r["digest"] or r["status"] != "ok" or metric not in METRICS:
            continue
        found.append(
            EvalResult(
                task_type="fill-mask" if r["task"] == "mlm" else "feature-extraction",
                dataset_type="held-out-documents",
                dataset_name=f"held-out documents, {r['n']} languages of tier {r['tier']}",
                dataset_config=r["tier"],
                dataset_split=r["split"],
                metric_type=r["metric"],
                metric_name=METRICS[metric],
                metric_value=r["mean"],
                metric_args={"interval_95": [r["low"], r["high"]]},
            )
        )
    return found


def card_data(release: Json, tags: Iterable[str], rows: Sequence[Json]) -> Any:
    """The front matter as ModelCardData; `release` is that section of the recipe."""
    from huggingface_hub import ModelCardData

    more: Json = {"license_name": "see-training-data", "license_link": "README.md"} if release["license"] == "other" else {}
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="fill-mask",
        license=release["license"],
        language=hub_languages(tags),
        tags=["mmenc", "modernbert", "masked-lm", "multilingual", *(["onnx"] if release["onnx"] else [])],
        datasets=release["datasets"] or None,
        mask_token="<mask>",  # noqa: S106 (the hub's widget asks with it)
        model_name=release["name"],
        eval_results=eval_results(rows) or None,
        **more,
    )
