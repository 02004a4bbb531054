std = "luajit"
max_line_length = 110
cache = false
exclude_files = { "build/**" }

-- The contract fixes the arguments of every plug-in callback, used or not.
files["strategies/"] = { read_globals = { "gateway" }, unused_args = false }
files["examples/"] = { read_globals = { "gateway" }, unused_args = false }
files["lua/"] = { read_globals = { "gateway" } }
files["lua/meta/"] = { globals = { "gateway" }, unused_args = false, ignore = { "122", "131", "211", "212", "241" } }
files["spec/"] = { std = "+busted", read_globals = { "gateway" }, max_line_length = 150 }
files["examples/**/*_spec.lua"] = { std = "+busted", max_line_length = 150 }
