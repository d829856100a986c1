"""The names under which people print facts of a training, in ten languages."""

from __future__ import annotations

from touchline.domain.observation import ObservationName

_NAMES: dict[ObservationName, str] = {
    "micro_batch_size": (
        "batch size|per-device batch size|per device batch size|micro batch size|micro-batch size|train batch size"
        "|training batch size|batch size per device|batch size per gpu|per-gpu batch size|per device train batch size"
        "|批次大小|批大小|批量大小|バッチサイズ|배치 크기|배치 사이즈|tamaño de lote|tamaño del lote|tamanho do lote"
        "|taille du lot|taille de lot|batchgröße|batch-größe|размер батча|размер пакета"
    ),
    "gradient_accumulation_steps": (
        "gradient accumulation|gradient accumulation steps|grad accumulation|grad accumulation steps|grad accum"
        "|grad accum steps|accumulation steps|accumulate grad iterations|accumulate grad iterations"
        "|gradient accum steps|梯度累积|梯度累积步数|梯度累計|勾配累積"
        "|勾配累積ステップ"
        "|그래디언트 누적|acumulación de gradientes|acumulação de gradiente|accumulation de gradient"
        "|градиентное накопление"
        "|накопление градиентов|накопление градиента"
    ),
    "global_batch_size": (
        "effective batch size|global batch size|total batch size|effective batch|global batch|有效批次大小"
        "|有效批大小|有效批次"
        "|总批次大小|実効バッチサイズ|유효 배치 크기|effektive batchgröße|tamaño de lote efectivo|tamanho"
        " efetivo do lote"
        "|batch size efetivo|batch size efectivo|эффективный размер батча|эффективный батч"
    ),
    "epochs": (
        "epochs|num epochs|number of epochs|total epochs|training epochs|train epochs|max epochs|num train epochs"
        "|训练轮数|训练轮次|轮数|总轮数|总轮次|エポック数|에포크|에포크 수|épocas|número de épocas|nombre"
        " d'époques|époques|epochen"
        "|anzahl epochen|эпохи|эпох|количество эпох|число эпох"
    ),
    "steps_total": (
        "total steps|max steps|total training steps|total train steps|total optimization steps|total optimizer steps"
        "|total optim steps|num training steps|number of training steps|training steps|max iterations"
        "|total iterations"
        "|max iters|total update steps|optimizer steps|estimated total steps|总步数|总训练步数|训练总步数"
        "|最大步数|総ステップ数"
        "|総学習ステップ数|총 스텝|총 스텝 수|총 학습 스텝|pasos totales|total de pasos|total de passos|passos totais"
        "|étapes totales|schritte insgesamt|gesamtschritte|всего шагов|общее количество шагов"
    ),
    "train_examples": (
        "estimated samples"
        "|train samples|training samples|train examples|training examples|num train samples|number of training samples"
        "|number of training examples|num training examples|num train examples|number of train samples"
        "|train dataset size"
        "|training dataset size|train set size|training set size|train size|train dataset|training dataset|train set"
        "|training set|train rows|training rows|training data size|train data size|训练样本数|训练样本数量"
        "|训练样本|训练集大小|训练集"
        "|训练集样本数|训练数据量|训练数据|学習データ数|学習データ|学習サンプル数|訓練データ数|학습 데이터"
        "|학습 샘플|학습 데이터 수|훈련 데이터"
        "|muestras de entrenamiento|ejemplos de entrenamiento|amostras de treino|exemplos de treino"
        "|amostras de treinamento"
        "|exemples d'entraînement|échantillons d'entraînement|trainingsbeispiele|обучающих примеров"
        "|примеров для обучения"
    ),
    "lora_rank": "lora rank|lora r|lora rank r|rank lora|lora rank (r)|lora 秩",
    "lora_alpha": "lora alpha|alpha lora",
    "max_seq_len": (
        "max seq length|max sequence length|maximum sequence length|max seq len|max length|sequence length|seq length"
        "|context length|max token length|max tokens per sample|block size|最大长度|最大序列长度|序列长度"
        "|最大シーケンス長|최대 길이"
        "|최대 시퀀스 길이|longitud máxima|comprimento máximo|longueur maximale|maximale länge|максимальная длина"
    ),
    "gpus": (
        "number of gpus|num gpus|gpus|gpu count|world size|number of devices|num devices|gpu 数量|gpu数量|gpu 数"
        "|número de gpus|nombre de gpus|anzahl gpus|количество gpu|gpu 개수"
    ),
    "trainable_parameters": (
        "trainable parameters|trainable params|number of trainable parameters|num trainable parameters"
        "|trainable|total trainable parameters|total trainable params|可训练参数"
        "|可训练参数量|可训练参数数量|学習可能パラメータ|学習可能なパラメータ数|학습 가능한 파라미터|학습"
        " 가능 파라미터|parámetros entrenables"
        "|parâmetros treináveis|paramètres entraînables|trainierbare parameter|обучаемых параметров"
        "|обучаемые параметры"
    ),
    "total_parameters": (
        "total parameters|total params|all parameters|number of parameters|model parameters|总参数"
        "|总参数量|総パラメータ数|전체 파라미터"
        "|parámetros totales|parâmetros totais|всего параметров"
    ),
}
FACTS_BY_NAME: dict[str, ObservationName] = {name: fact for fact, names in _NAMES.items() for name in names.split("|")}
"""What a name in lower case is of."""
UNITS: dict[ObservationName, str] = {
    "epochs": "epochs",
    "steps_total": "steps",
    "train_examples": "examples",
    "max_seq_len": "tokens",
    "trainable_parameters": "parameters",
    "total_parameters": "parameters",
}
"""Units of the facts that have one."""
WORDS: frozenset[str] = frozenset(
    {
        *("size", "batch", "accumulation", "accum", "epochs", "steps", "iterations", "iters", "samples", "examples"),
        *(
            "dataset",
            "rows",
            "set",
            "rank",
            "lora",
            "alpha",
            "length",
            "gpus",
            "world",
            "devices",
            "parameters",
            "params",
        ),
        *("trainable", "rate", "lr", "model", "loss", "time", "duration", "runtime", "took", "completed", "finished"),
        *(
            *("throughput", "speed", "tokens", "tok", "step"),
            *("peak_memory_mb", "peak_memory_gb", "peak_memory", "peak_memory_gib", "peak_memory_mib", "peak_mem"),
            *("max_memory_allocated", "max_memory_reserved", "max_memory", "peak_gpu_memory", "peak_vram", "vram"),
            *("peak_memory_allocated", "peak_memory_reserved", "gpu_peak_memory", "peak_gpu_memory_gb", "peak_mem_gb"),
            *("peak_gpu_memory_mb", "peak_vram_gb", "max_mem", "max_gpu_memory", "peak_gpu_mem", "highest"),
            "max",
            "peak",
            "maximum",
            "modules",
            "gpu",
            "device",
            "trained",
            "tuned",
            "train",
            "lote",
            "lot",
            "batchgröße",
        ),
        *("батча", "épocas", "époques", "epochen", "эпох", "Эпох", "Эпохи", "шагов", "pasos", "passos", "étapes"),
        *("gesamtschritte", "muestras", "ejemplos", "amostras", "exemplos", "exemples", "trainingsbeispiele"),
        *("примеров", "параметров", "параметры", "parámetros", "parâmetros", "paramètres", "aprendizaje"),
        *("aprendizado", "apprentissage", "lernrate", "обучения", "modelo", "modèle", "modell", "Модель", "модель"),
        *("basismodell", "entrenamiento", "treino", "treinamento", "trainingszeit", "trainingsdauer", "Epochs"),
    }
)
"""Words of the lines that facts stand on."""
