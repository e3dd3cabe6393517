-- What is left to do.

-- Cells without results: not made yet, or, where there is a reason, failed when they were last tried.
create view missing as
select study, "table", step, title, reason, waits, path
from cells where not done order by study, waits nulls last, "table", title, path;

-- Cells that failed when they were last tried, or wait for one that did.
create view failed as from missing where reason is not null;
