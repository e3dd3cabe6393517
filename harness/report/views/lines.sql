-- The lines of the printed tables.

-- Every line of the printed tables of accuracies: the mean over the seeds.
-- Layout is black_box (Tables IV to VI), table7 or white_box, where stages of a worst case that goes on are left out.
--   accuracy    mean over the seeds that are measured (seeds, of the study's of_seeds)
--   spread      standard deviation between them (n - 1), beside their lowest and highest
--   low, high   t interval of the mean; where the study has one seed Wilson's over the test images
--   least_difference    that two means over all seeds can show at 95 %
--   differs     every seed differs from the paper's number, all in the same direction
--   credit, credit_low, credit_high, better    see credit_over_seeds; control: the best control of each seed
--   verdict, reason    of the checks, see verdicts
-- What tells networks apart is null where the seeds' networks differ in it.
create view over_seeds as
with lines as (
    select 'black_box' as layout, name as line, * from black_box
    union all by name
    select 'table7' as layout, * from table7
    union all by name
    select 'white_box' as layout, * exclude (paper) from white_box where stage is not true
), joined as (
    select lines.*, of_seeds, c.credit, c.control, c.control_title, c.control_accuracy,
           c.low as credit_of_images_low, c.high as credit_of_images_high
    from lines
    join seeds_of on seeds_of.study = lines.study
    left join credit c
        on c.study = lines.study and c.access = lines.access and c.name = lines.name and c.seed = lines.seed
        and c.attack = lines.attack and c.epsilon is not distinct from lines.epsilon
        and (lines.step_size is null or c.step_size is not distinct from lines.step_size)
), means as (
    select study, layout, line, any_value(dataset) as dataset, any_value(paper_dataset) as paper_dataset,
           coalesce(common(title), line) as title, any_value(grid) as grid, common(name) as name,
           any_value(method) as method, any_value(role) as role, common(settings) as settings, common(k) as k,
           common(n) as n, common(training_attack) as training_attack,
           common(training_epsilon) as training_epsilon, any_value(access) as access, attack,
           any_value(attack_title) as attack_title, any_value(attack_method) as attack_method,
           any_value(norm) as norm, epsilon, step_size, any_value(divisor) as divisor,
           count(accuracy) as seeds, of_seeds, max(images) as images,
           avg(accuracy) as accuracy, stddev_samp(accuracy) as spread,
           min(accuracy) as lowest, max(accuracy) as highest, any_value(low) as low, any_value(high) as high,
           avg(clean_accuracy) as clean_accuracy, any_value(paper) as paper,
           bool_and(differs) and (bool_and(accuracy > paper) or bool_and(accuracy < paper)) as differs,
           array_to_string(list_sort(list(distinct control)), ', ') as control,
           array_to_string(list_sort(list(distinct control_title)), ', ') as control_title,
           avg(control_accuracy) as control_accuracy, avg(credit) as credit, count(credit) as credit_seeds,
           min(credit) as credit_lowest, max(credit) as credit_highest,
           any_value(credit_of_images_low) as credit_low, any_value(credit_of_images_high) as credit_high,
           list_distinct(list(name)) as names, min(position) as position
    from joined group by study, layout, line, attack, epsilon, step_size, of_seeds
), bounded as (
    select m.* replace (
               mean_low(accuracy, o.s, o.df, m.seeds, of_seeds, low) as low,
               mean_high(accuracy, o.s, o.df, m.seeds, of_seeds, high) as high,
               if(of_seeds = 1, credit_low, credit - t_975(p.df) * p.s * sqrt(2 / credit_seeds)) as credit_low,
               if(of_seeds = 1, credit_high, credit + t_975(p.df) * p.s * sqrt(2 / credit_seeds)) as credit_high
           ), o.least_difference
    from means m
    left join pooled_spread o
        on o.study = m.study and o.access = m.access and o.attack = m.attack and o.grid = m.grid
        and o.epsilon is not distinct from m.epsilon and o.is_base = (m.role = 'base')
        and (m.step_size is null or o.step_size is not distinct from m.step_size)
    left join pooled p
        on p.scope = 'controls' and p.member = m.grid and p.study = m.study and p.access = m.access and p.attack = m.attack
        and p.epsilon is not distinct from m.epsilon
        and (m.step_size is null or p.step_size is not distinct from m.step_size)
)
select b.* exclude (credit_seeds, credit_lowest, credit_highest, names, position),
       if(credit is not null, is_better(credit_low, credit_high, credit_lowest, credit_highest, credit_seeds), null)
           as better,
       v.verdict, v.reason, b.position
from bounded b
left join verdicts v on v.study = b.study and v.name = b.name
order by b.study, b.layout, b.position nulls last, b.line, b.attack, b.epsilon, b.step_size;
