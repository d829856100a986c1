"""stub"""
from touchline.logtext.reader import LogReader
READERS: tuple[type[LogReader], ...] = ()
CJK_TRIGGERS: tuple[str, ...] = ()
