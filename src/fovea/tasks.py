"""The declarations. A sixth disease is one more `Task` here and one recipe in `training/`; nothing else changes."""

from fovea.errors import UsageError
from fovea.spec import Classes, Heatmap, Image, Mask, Network, Task, Tolerance

FUNDUS_LABELS = ("DiabeticRetinopathy", "Glaucoma", "Myopia", "Normal")

RETINA = Task(
    name="retina",
    question="Which of four conditions does the vessel map of this fundus photograph show?",
    image=Image(side=512, crop="field_of_view"),
    networks=(
        Network(
            name="retina_unet",
            framework="torch",
            reads="image",
            answers=(Mask("vessels", side=512),),
            tolerance=Tolerance(atol=1e-5, rtol=0),
        ),
        Network(
            name="retina_classifier",
            framework="keras",
            reads="vessels",
            answers=(Classes(FUNDUS_LABELS), Heatmap(side=16)),
            tolerance=Tolerance(atol=1e-5, rtol=0),
        ),
    ),
)

FUNDUS = Task(
    name="fundus",
    question="Which of four conditions does this fundus photograph show?",
    image=Image(side=256, crop="field_of_view"),
    networks=(
        Network(
            name="fundus_classifier",
            framework="keras",
            reads="image",
            answers=(Classes(FUNDUS_LABELS), Heatmap(side=16)),
            tolerance=Tolerance(atol=1e-5, rtol=0),
        ),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in (RETINA, FUNDUS)}


def task_named(name: str) -> Task:
    """The declared task of that name, or `UsageError` listing those there are."""
    try:
        return TASKS[name]
    except KeyError:
        raise UsageError(f"There is no task {name!r}: choose one of {', '.join(TASKS)}.") from None
