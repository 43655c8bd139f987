"""The declarations. A sixth disease is one more `Task` here and one recipe in `training/`; nothing else changes."""

from fovea.errors import UsageError
from fovea.spec import Classes, Heatmap, Image, Mask, Network, Task, Tolerance

FUNDUS_LABELS = ("DiabeticRetinopathy", "Glaucoma", "Myopia", "Normal")
FUNDUS_CLASSES = Classes(FUNDUS_LABELS, healthy="Normal")
PROBABILITY = Tolerance(atol=1e-5, rtol=0)


def _picture_classifier(name: str, classes: Classes, heatmap: int) -> Network:
    """A Keras network that reads the picture and answers classes and a heat map of `heatmap` pixels a side."""
    return Network(name, "keras", "image", (classes, Heatmap(heatmap)), tolerance=PROBABILITY)


RETINA = Task(
    name="retina",
    question="Which of four conditions does the vessel map of this fundus photograph show?",
    image=Image(side=512, crop="field_of_view"),
    modalities=("fundus",),
    networks=(
        Network(
            name="retina_unet",
            framework="torch",
            reads="image",
            answers=(Mask("vessels", side=512),),
            tolerance=PROBABILITY,
        ),
        Network(
            name="retina_classifier",
            framework="keras",
            reads="vessels",
            answers=(FUNDUS_CLASSES, Heatmap(side=16)),
            tolerance=PROBABILITY,
        ),
    ),
)

FUNDUS = Task(
    name="fundus",
    question="Which of four conditions does this fundus photograph show?",
    image=Image(side=256, crop="field_of_view"),
    modalities=("fundus",),
    networks=(_picture_classifier("fundus_classifier", FUNDUS_CLASSES, heatmap=16),),
)

GLAUCOMA = Task(
    name="glaucoma",
    question="Does this optic disc, or fundus photograph, show glaucoma?",
    image=Image(side=224, crop="field_of_view"),
    modalities=("disc", "fundus"),
    networks=(
        _picture_classifier("glaucoma_classifier", Classes(("Normal", "Glaucoma"), healthy="Normal"), heatmap=14),
    ),
)

OCT = Task(
    name="oct",
    question="Which of three conditions, or none, does this OCT B-scan show?",
    image=Image(side=256),
    modalities=("oct",),
    networks=(
        _picture_classifier(
            "oct_classifier", Classes(("CNV", "DME", "DRUSEN", "NORMAL"), healthy="NORMAL"), heatmap=16
        ),
    ),
)

GLOMERULI = Task(
    name="glomeruli",
    question="Is this glomerulus globally sclerotic?",
    image=Image(side=224),
    modalities=("glomerulus",),
    networks=(
        _picture_classifier(
            "glomeruli_classifier",
            Classes(
                ("globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli"),
                healthy="non_globally_sclerotic_glomeruli",
            ),
            heatmap=7,
        ),
    ),
)

ARTERY = Task(
    name="artery",
    question="Is this artery healthy?",
    image=Image(side=300),
    modalities=("artery",),
    networks=(
        _picture_classifier("artery_classifier", Classes(("healthy", "unhealthy"), healthy="healthy"), heatmap=19),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in (RETINA, FUNDUS, GLAUCOMA, OCT, GLOMERULI, ARTERY)}


def task_named(name: str) -> Task:
    """The declared task of that name, or `UsageError` listing those there are."""
    try:
        return TASKS[name]
    except KeyError:
        raise UsageError(f"There is no task {name!r}: choose one of {', '.join(TASKS)}.") from None
