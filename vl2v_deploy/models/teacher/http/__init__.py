"""A teacher that is paid by the query: one adapter for each API over one transport."""

from vl2v_deploy.models.teacher.http.teacher import HttpTeacher, load_http

__all__ = ["HttpTeacher", "load_http"]
